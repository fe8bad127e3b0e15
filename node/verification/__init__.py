"""Transactions in a tray, judged: encoding, ids and Ed25519 signatures."""
