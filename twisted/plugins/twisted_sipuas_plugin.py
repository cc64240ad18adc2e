"""Which command does twistd gain? ``twistd sipuas``.

Every ``twistd`` on the machine reads this file, so it imports nothing of ours: ``twisted_sipuas.tap`` is loaded when
the command is used. Twisted caches the name ``sipuas`` in ``dropin.cache``; it never changes.
"""

from twisted.application.service import ServiceMaker

sipuas = ServiceMaker("twisted-sipuas", "twisted_sipuas.tap", "A SIP user agent server.", "sipuas")
