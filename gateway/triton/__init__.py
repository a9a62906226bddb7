"""
One big Triton: the calls that no single slice can answer for all.

What a call means in front of N slices is told by the table in `api`. A composed call is read by a
form (`http_form`, `grpc_form`) into a Question, put to slices by `crew` and `asking`, and merged by `merge`
and `statistics` (`reading`), or carried out on every slice and kept in the journal (`changing`,
`journal`), from which `replay` brings a slice that joins later to the same state. `composer` is the
door to all of it.
"""
