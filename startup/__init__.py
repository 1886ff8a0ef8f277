"""What the ``parlai`` command imports at its start, where it looks for scripts.

It reads the options of ``-mf``, ``--init-model`` and ``-o`` before it imports any agent or task, so
that they must be safe to read from here on; importing the package sees to that. And a mistyped
agent, task or model is told in one line, whatever else the command names.
"""

import parlai_prosocial as parlai_prosocial
from parlai_prosocial.compat import names
from parlai_prosocial.errors import show_user_errors_as_one_line

show_user_errors_as_one_line()
names.mend()
