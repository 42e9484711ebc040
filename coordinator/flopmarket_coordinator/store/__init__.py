"""Facts on disk: SQLAlchemy Core tables and functions over one connection. No decisions here."""
