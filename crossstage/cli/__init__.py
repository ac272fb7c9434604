"""The commands; `tools/` calls them."""
