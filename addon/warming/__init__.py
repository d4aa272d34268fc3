"""Images pulled into the cache before anybody asks for them, beside a running proxy or without one."""
