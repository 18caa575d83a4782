-- Parts of a WHERE over `memories m`, put together by store.conditions. {value} becomes a parameter, {field} and {part}s
-- become other parts. Every condition is true or false, never null, so that its negation is exact.

-- name: all_of
({first} AND {rest})

-- name: any_of
({first} OR {rest})

-- name: negated
(NOT {part})

-- name: everything
true

-- name: nothing
false

-- name: kind
m.kind

-- name: agent_id
m.agent_id

-- name: run_id
m.run_id

-- name: source
m.source

-- name: tags
m.tags

-- name: entities
m.entities

-- name: importance
m.importance

-- name: created_at
m.created_at

-- name: updated_at
m.updated_at

-- name: expires_at
m.expires_at

-- name: metadata
m.metadata::jsonb

-- name: metadata_cast
j.metadata

-- name: cast_once
-- For conditions that look at the metadata more than once: to cast it costs more than all of them.
(SELECT {part} FROM (SELECT m.metadata::jsonb AS metadata OFFSET 0) j)

-- name: member
-- By text alone, which takes no list for an object: a key of digits is no position.
({field} -> {value}::text)

-- name: text_one_of
({field} = ANY ({value}::text[])) IS TRUE

-- name: text_gt
({field} > {value}::text) IS TRUE

-- name: text_gte
({field} >= {value}::text) IS TRUE

-- name: text_lt
({field} < {value}::text) IS TRUE

-- name: text_lte
({field} <= {value}::text) IS TRUE

-- name: text_contains
(strpos({field}, {value}::text) > 0) IS TRUE

-- name: text_exists
({field} IS NOT NULL)

-- name: list_one_of
({field} && {value}::text[]) IS TRUE

-- name: list_exists
(cardinality({field}) > 0) IS TRUE

-- name: number_one_of
({field} = ANY ({value}::float8[])) IS TRUE

-- name: number_gt
({field} > {value}::float8) IS TRUE

-- name: number_gte
({field} >= {value}::float8) IS TRUE

-- name: number_lt
({field} < {value}::float8) IS TRUE

-- name: number_lte
({field} <= {value}::float8) IS TRUE

-- name: number_exists
({field} IS NOT NULL)

-- name: time_one_of
({field} = ANY ({value}::timestamptz[])) IS TRUE

-- name: time_gt
({field} > {value}::timestamptz) IS TRUE

-- name: time_gte
({field} >= {value}::timestamptz) IS TRUE

-- name: time_lt
({field} < {value}::timestamptz) IS TRUE

-- name: time_lte
({field} <= {value}::timestamptz) IS TRUE

-- name: time_exists
({field} IS NOT NULL)

-- name: json_one_of
({field} = ANY ({value}::jsonb[])) IS TRUE

-- name: json_exists
(jsonb_typeof({field}) <> 'null') IS TRUE

-- name: json_number_gt
-- Compared as jsonb, which orders numbers exactly and never fails; the types are told apart first.
(jsonb_typeof({field}) = 'number' AND {field} > {value}::jsonb) IS TRUE

-- name: json_number_gte
(jsonb_typeof({field}) = 'number' AND {field} >= {value}::jsonb) IS TRUE

-- name: json_number_lt
(jsonb_typeof({field}) = 'number' AND {field} < {value}::jsonb) IS TRUE

-- name: json_number_lte
(jsonb_typeof({field}) = 'number' AND {field} <= {value}::jsonb) IS TRUE

-- name: json_text_gt
-- jsonb would order strings by the collation of the database.
(jsonb_typeof({field}) = 'string' AND ({field} #>> ARRAY[]::text[]) COLLATE "C" > {value}::text) IS TRUE

-- name: json_text_gte
(jsonb_typeof({field}) = 'string' AND ({field} #>> ARRAY[]::text[]) COLLATE "C" >= {value}::text) IS TRUE

-- name: json_text_lt
(jsonb_typeof({field}) = 'string' AND ({field} #>> ARRAY[]::text[]) COLLATE "C" < {value}::text) IS TRUE

-- name: json_text_lte
(jsonb_typeof({field}) = 'string' AND ({field} #>> ARRAY[]::text[]) COLLATE "C" <= {value}::text) IS TRUE

-- name: json_list_contains
-- {value} is a list of one member that is no list or object itself, for which containment is equality; only a list can
-- contain a list.
({field} @> {value}::jsonb) IS TRUE

-- name: json_text_contains
(jsonb_typeof({field}) = 'string' AND strpos(({field} #>> ARRAY[]::text[]) COLLATE "C", {value}::text) > 0) IS TRUE
