"""SQLAlchemy models, engines, transactions and driver errors."""
