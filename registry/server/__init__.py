"""The HTTP server for labeling tools: samples, webhooks, health checks and metrics."""
