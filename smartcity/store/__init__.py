"""Keeper of the database: tables, migrations, the spool before it, users and their keys."""
