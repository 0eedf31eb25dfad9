"""What runs around the worker: a broker for tests and demo, images, dashboards and alerts."""
