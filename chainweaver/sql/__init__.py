"""Stores in a database: flows, runs and cached steps in SQLite or PostgreSQL.

`open_store` is where to begin. `schema` has the tables, `flows`, `runs` and `cache` are the stores, `database` says
what they ask of a database, and `sqlite` and `postgres` are the two there are. SQL is written once, with bound
parameters.
"""

from chainweaver.sql.cache import SqlStepCache
from chainweaver.sql.flows import SqlFlows
from chainweaver.sql.opening import SqlStore, open_store
from chainweaver.sql.runs import SqlRuns

__all__ = ["SqlFlows", "SqlRuns", "SqlStepCache", "SqlStore", "open_store"]
