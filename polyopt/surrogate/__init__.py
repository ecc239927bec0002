"""Networks that stand for something: in the user's units, with a domain, inside larger decisions."""
