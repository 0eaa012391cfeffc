"""All rows of a fit: where they come from, how they are kept, who has which. Knows no model and no solver."""
