"""What this host can do, and why not: pure reading, one module per noun. `examine()` is the way in."""
