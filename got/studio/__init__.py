"""The studio: a page in the browser where people draw, change plans and edit.

In: a pipeline and a folder of conversations; out: more of them. Whatever it draws it draws by `got.conversation`. It
knows no benchmark: a detector's view and the samples of runs come from entry points of the group `got.studio`.
"""
