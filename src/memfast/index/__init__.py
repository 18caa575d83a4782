"""The warm index: copies of whole scopes in memory, searched without the database, lost without harm."""
