"""The payment node: transactions, ledger, mempool, consensus, and the stages that run them."""
