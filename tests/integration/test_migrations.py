"""Migrations: their files, that each is applied once whoever comes at the same time, and that the wheel carries them."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded import Cluster
from memfast.store.migrate import apply_migrations, load_migrations, pending_migrations

ROOT = Path(__file__).parents[2]
NUMBERS = count(1)


@pytest.fixture(scope="module")
def server():
    """The address of a server for this module."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))
    base.chmod(0o755)
    cluster = Cluster(base / "data")
    yield cluster.start().connect_arguments()
    cluster.stop()
    shutil.rmtree(base)


@pytest.fixture
async def database(server):
    """The address of a new, empty database."""
    name = f"migrations_{next(NUMBERS)}"
    connection = await asyncpg.connect(**server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return server | {"database": name}


@pytest.fixture
async def connect(database):
    """Function: a connection to the new database."""
    opened = []

    async def connected():
        opened.append(await asyncpg.connect(**database))
        return opened[-1]

    yield connected
    for connection in opened:
        await connection.close()


@pytest.fixture
def folder(tmp_path):
    """Function: a directory of migrations, from names and texts."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.sql").write_text(text)
        return tmp_path

    return write


def quiet(_line):
    """Report to nobody."""


def test_ours_load_in_order():
    """Those that are shipped have the numbers 1, 2, … and the checksums of their files."""
    migrations = load_migrations()
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    for migration in migrations:
        file = ROOT / "migrations" / f"{migration.number:04d}_{migration.phase}_{migration.name}.sql"
        assert migration.checksum == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "without a gap"),
        ({"0002_pre_b": ""}, "without a gap"),
        ({"0001_pre_a": "", "0003_pre_c": ""}, "without a gap"),
        ({"0001_pre_a": "", "0001_post_b": ""}, "without a gap"),
        ({"1_pre_a": ""}, "1_pre_a.sql: the name must be"),
        ({"0001_during_a": ""}, "0001_during_a.sql: the name must be"),
        ({"0001_pre": ""}, "0001_pre.sql: the name must be"),
    ],
)
def test_wrong_names_and_numbers_are_refused(folder, files, message):
    """A gap, a number given twice, or a name of another form is an error of the release, and is named."""
    with pytest.raises(CommandFailed, match=message):
        load_migrations(folder(**files))


async def test_applied_once_by_two_at_the_same_time(folder, connect):
    """Two that migrate at once: each file runs once, and both see all of it applied."""
    slow = "CREATE TABLE first (id int); SELECT pg_sleep(0.3)"
    migrations = load_migrations(folder(**{"0001_pre_one": slow, "0002_post_two": "CREATE TABLE second (id int)"}))
    connections = [await connect() for _ in range(2)]
    reports = []
    numbers = await asyncio.gather(
        *(apply_migrations(connection, migrations, report=reports.append) for connection in connections)
    )
    assert numbers == [2, 2]
    assert sorted(reports) == ["applying migration 0001 (one)", "applying migration 0002 (two)"]
    rows = await connections[0].fetch("SELECT number, name, checksum FROM schema_migrations ORDER BY number")
    assert [tuple(row) for row in rows] == [(m.number, m.name, m.checksum) for m in migrations]


async def test_applied_once_by_processes(database, connect, tmp_path):
    """Four processes migrate one database with our own files at once: none fails, every number is there once."""
    program = tmp_path / "migrate.py"
    program.write_text(
        "import asyncio, asyncpg, sys\n"
        "from memfast.store.migrate import apply_migrations, load_migrations\n"
        "async def work(arguments):\n"
        "    connection = await asyncpg.connect(**arguments)\n"
        "    print(await apply_migrations(connection, load_migrations(), report=lambda line: None))\n"
        "    await connection.close()\n"
        "asyncio.run(work(eval(sys.argv[1])))\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, program, repr(database), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = [await process.communicate() for process in started]
    newest = load_migrations()[-1].number
    assert [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)] == [
        (0, b"%d\n" % newest, b"")
    ] * 4
    numbers = await (await connect()).fetch("SELECT number FROM schema_migrations ORDER BY number")
    assert [row["number"] for row in numbers] == list(range(1, newest + 1))


async def test_a_migration_that_fails_leaves_nothing(folder, connect):
    """Its transaction is undone, what came before stays, and after a correction the rest is applied."""
    good, bad = "CREATE TABLE first (id int)", "CREATE TABLE second (id int); SELECT 1/0"
    connection = await connect()
    migrations = load_migrations(folder(**{"0001_pre_one": good, "0002_pre_two": bad}))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await apply_migrations(connection, migrations, report=quiet)
    assert await connection.fetchval("SELECT to_regclass('first') IS NOT NULL AND to_regclass('second') IS NULL")
    assert [migration.number for migration in await pending_migrations(connection, migrations)] == [2]
    corrected = load_migrations(folder(**{"0002_pre_two": "CREATE TABLE second (id int)"}))
    assert await apply_migrations(connection, corrected, report=quiet) == 2
    assert await pending_migrations(connection, corrected) == []


async def test_a_changed_file_is_refused(folder, connect):
    """What was applied can not be told any more: refused, whether something is pending or not."""
    connection = await connect()
    migrations = load_migrations(folder(**{"0001_pre_one": "CREATE TABLE first (id int)"}))
    await apply_migrations(connection, migrations, report=quiet)
    changed = load_migrations(folder(**{"0001_pre_one": "CREATE TABLE first (id bigint)", "0002_pre_two": "SELECT 1"}))
    for check in (pending_migrations(connection, changed), apply_migrations(connection, changed, report=quiet)):
        with pytest.raises(DatabaseRefused, match="0001 was changed after it was applied"):
            await check
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == 1


async def test_a_newer_database_is_refused(folder, connect):
    """An older release does not touch a database that a newer one has migrated."""
    connection = await connect()
    both = folder(**{"0001_pre_one": "SELECT 1", "0002_pre_two": "SELECT 2"})
    await apply_migrations(connection, load_migrations(both), report=quiet)
    (both / "0002_pre_two.sql").unlink()
    older = load_migrations(both)
    for check in (pending_migrations(connection, older), apply_migrations(connection, older, report=quiet)):
        with pytest.raises(DatabaseRefused, match="has schema 2, this memfast knows 1 at most"):
            await check


async def test_missing_rights_are_explained(folder, connect, database):
    """A role that may not create an extension is told what to do."""
    owner = await connect()
    await owner.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT CREATE ON SCHEMA public TO plain")
    try:
        plain = await asyncpg.connect(**database | {"user": "plain", "password": "plain"})
        try:
            migrations = load_migrations(folder(**{"0001_pre_one": "CREATE ROLE another"}))
            with pytest.raises(DatabaseRefused, match=r"(?s)0001 needs more rights.*as the owner of the database"):
                await apply_migrations(plain, migrations, report=quiet)
        finally:
            await plain.close()
    finally:
        await owner.execute("DROP OWNED BY plain; DROP ROLE plain")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from a copy of the sources, with the compiled extension that is there."""
    work = tmp_path_factory.mktemp("wheel")
    kept = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "tests", "bench", "*.so")
    shutil.copytree(ROOT, work / "source", ignore=kept, symlinks=True)
    words = ["wheel", ".", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", work / "out"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words],
        cwd=work / "source",
        check=True,
        capture_output=True,
        timeout=170,
    )
    (built,) = (work / "out").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_everything(wheel):
    """Every migration, every SQL and configuration file, the mark of types and each compiled extension is inside."""
    package = ROOT / "src" / "memfast"
    data = {
        f"memfast/{file.relative_to(package)}"
        for pattern in ("**/*.sql", "**/*.conf", "py.typed", "_native/*.pyi", "**/*.py")
        for file in package.glob(pattern)
    }
    migrations = {f"memfast/migrations/{file.name}" for file in (ROOT / "migrations").glob("*.sql")}
    assert migrations
    assert (data | migrations) - wheel == set()
    for source in (package / "_native").glob("*.pyx"):
        compiled = [name for name in wheel if name.startswith(f"memfast/_native/{source.stem}.cpython-")]
        assert [name.rpartition(".")[2] for name in compiled] == ["so"]


def test_the_wheel_carries_nothing_else(wheel):
    """No test, no C source, no benchmark."""
    inside = [name for name in wheel if ".dist-info/" not in name]
    assert [name for name in inside if not name.startswith("memfast/")] == []
    assert [name for name in inside if name.endswith((".c", ".pyx", ".h", ".o"))] == []
