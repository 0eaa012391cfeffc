"""Through `Model.fit`: what a user sees."""
