"""Reviews: decisions that wait for people, and what people do about them, on record.

Data flow: a decision is handed over (`decide.degrade`) > a reviewer is shown it (`case`, `desk`)
> signs a statement over what was shown > the statement becomes a leaf (APPROVAL, OVERRIDE) >
enough of them release the answer to whoever asked.
"""
