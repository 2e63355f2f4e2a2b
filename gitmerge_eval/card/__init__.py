"""The card of a merged model: what it says, and how it comes into a README without replacing it."""
