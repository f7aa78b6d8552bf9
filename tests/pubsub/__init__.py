"""Tests of `silly.pubsub`, with real brokers."""
