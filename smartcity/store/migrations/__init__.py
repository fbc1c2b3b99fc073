"""How the tables came to be, step by step; the only way is forward."""
