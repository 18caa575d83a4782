"""WordNet's own files, read by bisection: a small one made here, and the system's where it is installed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memfast.errors import ConfigError
from memfast.search.wordnet import WordNet

SYSTEM = Path("/usr/share/wordnet")
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n  2 Princeton University  \n"
SENSES = {
    # part: word: (uses in tagged texts, its first synset)
    "noun": {
        "car": (7, ["car", "auto", "motor_car", "Automobile"]),
        "film": (2, ["film", "movie"]),
        "go": (1, ["go", "turn"]),
        "ox": (0, ["ox"]),
    },
    "verb": {"buy": (9, ["buy", "purchase"]), "film": (1, ["film", "shoot"]), "go": (5, ["travel", "go", "move"])},
    "adj": {"asleep": (3, ["asleep(p)", "sleeping(a)"]), "big": (4, ["large", "big"])},
    "adv": {"quickly": (6, ["quickly", "rapidly"])},
}
EXCEPTIONS = {"noun": "oxen ox\n", "verb": "bought buy\nwent go\n", "adj": "worse bad\n", "adv": "best well\n"}


@pytest.fixture
def folder(tmp_path):
    """Files in the form of wndb(5WN), offsets and all."""
    for part, words in SENSES.items():
        data, index = LICENCE, LICENCE
        letter = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}[part]
        for word, (uses, synset) in sorted(words.items()):
            offset = len(data)
            names = " ".join(f"{name} 0" for name in synset)
            data += (
                f"{offset:08d} 03 {letter} {len(synset):02x} {names} 001 @ 00001740 n 0000 | a gloss; for {word}  \n"
            )
            index += f"{word} {letter} 2 1 @ 2 {uses} {offset:08d} 00000099  \n"
        (tmp_path / f"data.{part}").write_text(data)
        (tmp_path / f"index.{part}").write_text(index)
        (tmp_path / f"{part}.exc").write_text(EXCEPTIONS[part])
    return tmp_path


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("car", ("auto", "automobile")),
        ("cars", ("auto", "automobile")),
        ("film", ("movie",)),
        ("films", ("movie",)),
        ("bought", ("purchase",)),
        ("buying", ("purchase",)),
        ("went", ("travel", "move")),
        ("go", ("travel", "move")),
        ("asleep", ("sleeping",)),
        ("bigger", ()),
        ("quickly", ("rapidly",)),
        ("oxen", ()),
        ("zebra", ()),
        ("aardvark", ()),
        ("software", ()),
        ("1", ()),
        ("", ()),
        ("東京", ()),
    ],
)
def test_synonyms(folder, word, synonyms):
    """Inflected words lead to their base, the part of speech met most often decides, collocations stay out."""
    with WordNet(folder) as wordnet:
        assert wordnet.synonyms(word) == synonyms
        assert wordnet.synonyms(word) == synonyms


@pytest.mark.parametrize("part", SENSES)
def test_every_word_is_found(folder, part):
    """Bisection reaches the first, the last and all other lines."""
    with WordNet(folder) as wordnet:
        for word, (_, synset) in SENSES[part].items():
            if (word, part) not in {("film", "verb"), ("go", "noun")}:
                expected = {name.partition("(")[0].lower() for name in synset if "_" not in name} - {word}
                assert set(wordnet.synonyms(word)) == expected


@pytest.mark.parametrize("missing", ["index.verb", "data.adj", "noun.exc"])
def test_a_missing_file_is_said(folder, missing):
    """A folder without one of the files is refused with what to do."""
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=r"holds no WordNet.*wordnet-base"):
        WordNet(folder)


def test_an_empty_file_is_said(folder):
    """A file without content cannot be mapped, and that is said in the same way."""
    (folder / "data.noun").write_text("")
    with pytest.raises(ConfigError, match="holds no WordNet"):
        WordNet(folder)


@pytest.mark.parametrize("content", ["<html>not found</html>\n", LICENCE, "car n x y\n"])
def test_files_of_another_form_are_said(folder, content):
    """What is not an index of these data is refused when it is opened, not at the first search."""
    (folder / "index.noun").write_text(content)
    with pytest.raises(ConfigError, match="holds no WordNet"):
        WordNet(folder)


def test_several_threads_read_at_once(folder):
    """Answers are the same from eight threads."""
    with WordNet(folder) as wordnet, ThreadPoolExecutor(8) as threads:
        words = ["car", "film", "went", "asleep", "quickly"] * 50
        assert list(threads.map(wordnet.synonyms, words)) == [wordnet.synonyms(word) for word in words]


def test_closing_twice_is_safe(folder):
    """The second close does nothing."""
    wordnet = WordNet(folder)
    wordnet.close()
    wordnet.close()


@pytest.mark.skipif(not (SYSTEM / "index.noun").exists(), reason="the package wordnet-base is not installed")
def test_the_real_one():
    """Princeton's own files: base forms, exceptions, and the first sense alone."""
    with WordNet(SYSTEM) as wordnet:
        assert wordnet.synonyms("bought") == ("purchase",)
        assert wordnet.synonyms("movie") == ("film", "picture", "pic", "flick")
        assert "automobile" in wordnet.synonyms("cars")
        assert "kid" in wordnet.synonyms("children")
