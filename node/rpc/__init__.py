"""JSON-RPC over HTTP: what wallets, integrators and scrapers ask the node."""
