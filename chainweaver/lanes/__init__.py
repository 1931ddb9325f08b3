"""Lanes: whoever performs what a run asks for. They decide nothing.

`drive` turns commands into calls, once for all lanes; `sync` performs in the calling thread and in worker threads,
`async_` in tasks of a running event loop. `services` is what both share: cache, checkpoints, listeners, clock.
"""
