"""What is durable: the chain store (RocksDB) and the append-only block files."""
