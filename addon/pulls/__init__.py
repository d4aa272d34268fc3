"""How content is found for a client: who may have it, by tag or digest, from the cache, a download, or the origin."""
