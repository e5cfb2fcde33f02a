"""Photos at addresses: fetched, kept in a cache, handed on as files."""
