"""The node's peers: TCP connections, handshakes, frames. Used by the stage that owns sockets."""
