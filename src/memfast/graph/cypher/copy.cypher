// A copy of memories and links. Ids are strings, whose order is that of the bytes; times are microseconds since 1970.
// (:MemfastCopy {key}) bears the mark. (:MemfastScope {id}) has `version` where the scope shows; `loading` is set while
// it is emptied and loaded, and `loads` counts that. (:MemfastMemory {scope_id, id}) has `gone`, a version, where it is
// no more. A link is a relation of the type MEMFAST_LINK, followed both ways, MEMFAST_ARROW, followed one way, or
// MEMFAST_GONE, which is no more: a walk does not even read those.
//
// Writers change the one node of the mark first and so exclude each other. Whatever is older than what is there changes
// nothing: steps may come again in other transactions.

// name: unique_copy
CREATE CONSTRAINT memfast_copy IF NOT EXISTS FOR (c:MemfastCopy) REQUIRE c.key IS UNIQUE;

// name: unique_scope
CREATE CONSTRAINT memfast_scope IF NOT EXISTS FOR (s:MemfastScope) REQUIRE s.id IS UNIQUE;

// name: unique_memory
CREATE CONSTRAINT memfast_memory IF NOT EXISTS FOR (m:MemfastMemory) REQUIRE (m.scope_id, m.id) IS UNIQUE;

// name: index_scope
CREATE INDEX memfast_memory_scope IF NOT EXISTS FOR (m:MemfastMemory) ON (m.scope_id);

// name: index_time
CREATE INDEX memfast_memory_time IF NOT EXISTS FOR (m:MemfastMemory) ON (m.created_at);

// name: index_scope_time
CREATE INDEX memfast_memory_scope_time IF NOT EXISTS FOR (m:MemfastMemory) ON (m.scope_id, m.created_at);

// name: index_gone_memories
CREATE INDEX memfast_memory_gone IF NOT EXISTS FOR (m:MemfastMemory) ON (m.scope_id, m.gone);

// name: index_gone_links
CREATE INDEX memfast_link_gone IF NOT EXISTS FOR () - [r:MEMFAST_GONE] - () ON (r.scope_id, r.version);

// name: await_indexes
CALL db.awaitIndexes(300);

// name: mark
MATCH (c:MemfastCopy {key: 'copy'}) WHERE c.epoch IS NOT NULL RETURN c.lineage, c.epoch;

// name: unmark
// Nobody writes any more, except who builds this.
MERGE (c:MemfastCopy {key: 'copy'}) SET c.building = $mark REMOVE c.lineage, c.epoch;

// name: erase_links
// $limit of them at a time, while nobody else builds.
MERGE (c:MemfastCopy {key: 'copy'}) SET c.touched = true
WITH c WHERE c.building = $mark
CALL () {
    MATCH () - [r:MEMFAST_LINK|MEMFAST_ARROW|MEMFAST_GONE] -> () WITH r LIMIT $limit DELETE r RETURN count(*) AS erased
}
RETURN erased;

// name: erase_nodes
MERGE (c:MemfastCopy {key: 'copy'}) SET c.touched = true
WITH c WHERE c.building = $mark
CALL () {
    MATCH (n:MemfastMemory|MemfastScope) WITH n LIMIT $limit DETACH DELETE n RETURN count(*) AS erased
}
RETURN erased;

// name: take_mark
MERGE (c:MemfastCopy {key: 'copy'}) SET c.touched = true
WITH c WHERE c.building = $mark
SET c.lineage = $lineage, c.epoch = $epoch REMOVE c.building
RETURN c.epoch;

// name: lock
// Nobody else changes anything until the end of this transaction.
MATCH (c:MemfastCopy {key: 'copy'}) SET c.touched = true
WITH c WHERE c.lineage = $lineage AND c.epoch = $epoch
RETURN c.epoch;

// name: standings
MATCH (s:MemfastScope) WHERE s.id IN $scope_ids
RETURN s.id, coalesce(s.version, 0), coalesce(s.loads, 0), s.loading;

// name: begin_load
// Nothing of the scope shows until it is loaded. None where it is newer than $version.
MERGE (s:MemfastScope {id: $scope_id})
WITH s, coalesce(s.loads, 0) + 1 AS loads WHERE coalesce(s.version, 0) <= $version
SET s.loads = loads, s.loading = loads REMOVE s.version
RETURN loads;

// name: loading
MATCH (s:MemfastScope {id: $scope_id}) WHERE s.loading = $loads RETURN s.loads;

// name: erase_links_of_scope
MATCH (m:MemfastMemory {scope_id: $scope_id}) - [r:MEMFAST_LINK|MEMFAST_ARROW|MEMFAST_GONE] -> ()
WITH r LIMIT $limit DELETE r RETURN count(*);

// name: erase_nodes_of_scope
MATCH (m:MemfastMemory {scope_id: $scope_id}) WITH m LIMIT $limit DETACH DELETE m RETURN count(*);

// name: end_load
MATCH (s:MemfastScope {id: $scope_id}) WHERE s.loading = $loads
SET s.version = $version REMOVE s.loading;

// name: sever
// Memories that are no more lose all their links.
UNWIND $rows AS row
MATCH (m:MemfastMemory {scope_id: row.scope_id, id: row.id}) - [r:MEMFAST_LINK|MEMFAST_ARROW|MEMFAST_GONE] - ()
WHERE r.version <= row.version
DELETE r;

// name: put_nodes
UNWIND $rows AS row
MERGE (m:MemfastMemory {scope_id: row.scope_id, id: row.id})
WITH m, row WHERE coalesce(m.version, 0) <= row.version
SET m.created_at = row.created_at, m.expires_at = row.expires_at, m.gone = row.gone, m.version = row.version;

// name: put_links
// `relation` is the type of relation that the link becomes.
UNWIND $rows AS row
MATCH (a:MemfastMemory {scope_id: row.scope_id, id: row.from_id})
MATCH (b:MemfastMemory {scope_id: row.scope_id, id: row.to_id})
OPTIONAL MATCH (a) - [r:MEMFAST_LINK|MEMFAST_ARROW|MEMFAST_GONE {type: row.type}] -> (b)
WITH row, a, b, collect(r) AS before
WHERE all(r IN before WHERE r.version <= row.version)
FOREACH (r IN before | DELETE r)
FOREACH (_ IN CASE row.relation WHEN 'MEMFAST_LINK' THEN [1] ELSE [] END |
    CREATE (a) - [:MEMFAST_LINK {type: row.type, weight: row.weight, created_at: row.created_at, version: row.version}] -> (b))
FOREACH (_ IN CASE row.relation WHEN 'MEMFAST_ARROW' THEN [1] ELSE [] END |
    CREATE (a) - [:MEMFAST_ARROW {type: row.type, weight: row.weight, created_at: row.created_at, version: row.version}] -> (b))
FOREACH (_ IN CASE row.relation WHEN 'MEMFAST_GONE' THEN [1] ELSE [] END |
    CREATE (a) - [:MEMFAST_GONE {type: row.type, scope_id: row.scope_id, version: row.version}] -> (b));

// name: put_scopes
// They are there from now on, and show when `reach` has been.
UNWIND $rows AS row
MERGE (s:MemfastScope {id: row.scope_id});

// name: reach
// In a transaction of its own, when all that it speaks of can be seen: who reads while a transaction is being committed
// may see a part of it, and must not see the version with an older part.
UNWIND $rows AS row
MATCH (s:MemfastScope {id: row.scope_id})
WHERE coalesce(s.loads, 0) = row.loads AND coalesce(s.version, 0) < row.version
SET s.version = row.version REMOVE s.loading;

// name: prune_nodes
// Tombstones that are older than whatever may still come.
UNWIND $rows AS row
MATCH (m:MemfastMemory) WHERE m.scope_id = row.scope_id AND m.gone <= row.version
DETACH DELETE m;

// name: prune_links
UNWIND $rows AS row
MATCH () - [r:MEMFAST_GONE] -> () WHERE r.scope_id = row.scope_id AND r.version <= row.version
DELETE r;

// name: versions
MATCH (s:MemfastScope) WHERE s.id IN $scope_ids AND s.version IS NOT NULL RETURN s.id, s.version;

// name: counts
MATCH (m:MemfastMemory {scope_id: $scope_id})
RETURN count(m), sum(COUNT { (m) - [:MEMFAST_LINK|MEMFAST_ARROW|MEMFAST_GONE] -> () });

// name: procedures
SHOW PROCEDURES YIELD name WHERE name = 'apoc.path.expandConfig' RETURN count(*);

// name: components
CALL dbms.components() YIELD name, versions, edition RETURN name, versions[0], edition;

// name: ping
RETURN 1;
