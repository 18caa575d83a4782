"""Every statement for Neo4j."""
