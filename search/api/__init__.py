"""``cbmir serve``: searches over HTTP, and a page for people.

The process that answers HTTP opens no store and decodes no image. It checks who asks, what they may see and how much
they send, and hands the work to processes that hold the collections, see `cbmir.search.api.pool`.
"""
