// A walk is one statement: its beginning, a level for each link of its depth, its end. The scope's version is read before
// anything else, so that what is read after it is at least as new. $only is a map because a plan holds for the types and
// lengths of all values, except of those within maps.

// name: beginning
// Planned when a server is met, then never again: that takes longer than a walk may.
CYPHER replan=skip
MATCH (s:MemfastScope {id: $scope_id}) WHERE s.version IS NOT NULL
MATCH (c:MemfastCopy {key: 'copy'}) WHERE c.epoch IS NOT NULL
WITH s.version AS version, coalesce(s.loads, 0) AS loads, c.lineage AS lineage, c.epoch AS epoch
OPTIONAL MATCH (m:MemfastMemory {scope_id: $scope_id, id: $start})
WHERE m.gone IS NULL AND (m.expires_at IS NULL OR m.expires_at > $now)
WITH version, loads, lineage, epoch, CASE WHEN m IS NULL THEN [] ELSE [m] END AS seen,
     CASE WHEN m IS NULL THEN [] ELSE [[m, 1.0]] END AS frontier, [] AS found;

// name: level
// The $fanout strongest links of each memory in either direction, and of what they lead to the $level nearest.
CALL (seen, frontier) {
    UNWIND CASE WHEN size(seen) <= $limit THEN frontier ELSE [] END AS each
    WITH seen, each[0] AS near, each[1] AS product
    CALL (near) {
        MATCH (near) - [r:MEMFAST_LINK|MEMFAST_ARROW] -> (far)
        WHERE coalesce(far.scope_id, '') = $scope_id // an expression, so that no index is taken for a start
              AND r.weight >= $min_weight AND ($only.type IS NULL OR r.type = $only.type)
        WITH far, r.weight AS weight ORDER BY weight DESC, far.id LIMIT $fanout
        RETURN far, weight
        UNION ALL
        MATCH (near) <- [r:MEMFAST_LINK] - (far)
        WHERE coalesce(far.scope_id, '') = $scope_id // an expression, so that no index is taken for a start
              AND r.weight >= $min_weight AND ($only.type IS NULL OR r.type = $only.type)
        WITH far, r.weight AS weight ORDER BY weight DESC, far.id LIMIT $fanout
        RETURN far, weight
    }
    WITH seen, far, max(product * weight) AS weight
    WHERE NOT far IN seen AND far.gone IS NULL AND (far.expires_at IS NULL OR far.expires_at > $now)
    WITH far, weight ORDER BY weight DESC, far.created_at DESC, far.id LIMIT $level
    RETURN collect([far, weight]) AS next
}
WITH version, loads, lineage, epoch, seen + [each IN next | each[0]] AS seen, next AS frontier, found + [next] AS found;

// name: level_apoc
// The same; APOC follows the links of the whole level at once.
CALL (seen, frontier) {
    WITH seen, apoc.map.fromPairs([each IN frontier | [each[0].id, each[1]]]) AS products,
         CASE WHEN size(seen) <= $limit THEN [each IN frontier | each[0]] ELSE [] END AS nodes
    CALL apoc.path.expandConfig(nodes, {
        relationshipFilter: 'MEMFAST_LINK|MEMFAST_ARROW>', labelFilter: '+MemfastMemory',
        minLevel: 1, maxLevel: 1, bfs: true, uniqueness: 'NONE'
    }) YIELD path
    WITH seen, products, startNode(relationships(path)[0]) = nodes(path)[0] AS outward, nodes(path)[0] AS near,
         nodes(path)[1] AS far, relationships(path)[0] AS r
    WHERE far.scope_id = $scope_id AND r.weight >= $min_weight AND ($only.type IS NULL OR r.type = $only.type)
    WITH seen, products, near, outward, far, r.weight AS weight ORDER BY weight DESC, far.id
    WITH seen, products[near.id] AS product, outward, collect([far, weight])[..$fanout] AS followed
    UNWIND followed AS one
    WITH seen, one[0] AS far, max(product * one[1]) AS weight
    WHERE NOT far IN seen AND far.gone IS NULL AND (far.expires_at IS NULL OR far.expires_at > $now)
    WITH far, weight ORDER BY weight DESC, far.created_at DESC, far.id LIMIT $level
    RETURN collect([far, weight]) AS next
}
WITH version, loads, lineage, epoch, seen + [each IN next | each[0]] AS seen, next AS frontier, found + [next] AS found;

// name: end
// Who erases takes the version, or the mark, away first: where both are still there, nothing was missing.
MATCH (s:MemfastScope {id: $scope_id}) WHERE s.version = version AND coalesce(s.loads, 0) = loads
MATCH (c:MemfastCopy {key: 'copy'}) WHERE c.lineage = lineage AND c.epoch = epoch
RETURN version, lineage, epoch, size(seen) > 0 AS start,
       reduce(t = null, m IN seen | CASE WHEN t IS NULL OR m.expires_at < t THEN m.expires_at ELSE t END) AS expires_at,
       [level IN found | [each IN level[..$limit] | [each[0].id, each[1]]]] AS found;
