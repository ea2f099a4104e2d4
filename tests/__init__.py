"""The tests: python -m unittest, in the project's folder.

What .ci/run really runs:
- Linux, Python 3.8 to 3.13: all tests; lint and types once;
- Windows' Python 3.8 and 3.13, under Wine: all but those that need Unix;
- Chromium 156 and Firefox 153: each test of the page, and each fault;
- nginx 1.22 in front, with TLS, as lessons/nginx.md says;
- Redis 7.0: three servers, thirty clients, and fifty rounds in each of which
  one part is killed.
By hand: Autobahn's test suite 25.10, 298 of 301 cases OK, 3 informational.
macOS and Safari were only read about.
"""

from __future__ import annotations
