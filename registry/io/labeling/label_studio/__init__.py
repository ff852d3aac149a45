"""Label Studio: webhook events and exports."""
