"""For each check a server that breaks what it judges: `FAULTS`, by the name of the check's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.conformance.virtual import (
    Fault,
    altered,
    both,
    changed_after,
    doubled,
    followed,
    fresh_tags,
    ignores,
    late,
    matches_by_branch_alone,
    once,
    preceded,
    reads,
    replies,
    status,
    with_row,
    without,
)


class Case(NamedTuple):
    """The server that is at fault, what makes its fault, which may have a memory, and how it is reached."""

    server: str
    fault: Callable[[], Fault]
    transport: str = "UDP"


_OPTIONS = r"CSeq: \d+ OPTIONS"
_NOT_THE_SPECIMEN = r"^OPTIONS(?!.*proxy\.example\.com)"
_QUERY = r"^(REGISTER(?:(?!\r\nContact:).)*)\r\nContent-Length"
_ADDED_REMOVAL = r"\1\r\nContact: *\r\nExpires: 0\r\nContent-Length"

RESPONSES = {
    "no_provisional_to_non_invite": Case("uas", lambda: preceded("183 Session Progress")),
    "timestamp_in_100": Case("slow", lambda: without("Timestamp", of="^SIP/2.0 100")),
    "from_is_copied": Case("uas", lambda: altered("From: <sip:", "From: <sip:x")),
    "call_id_is_copied": Case("uas", lambda: altered("Call-ID: ", "Call-ID: x")),
    "cseq_is_copied": Case("uas", lambda: altered("CSeq: 1 ", "CSeq: 2 ")),
    "vias_are_copied": Case("uas", lambda: altered(r"\r\nVia: SIP/2.0/TCP proxy[^\r]*", "")),
    "vias_are_in_order": Case("uas", lambda: altered(r"(Via: SIP/2.0/UDP[^\r]*\r\n)(Via: [^\r]*\r\n)", r"\2\1")),
    "to_with_tag_is_copied": Case("uas", lambda: altered("tag=from-elsewhere", "tag=other")),
    "to_uri_is_copied": Case("uas", lambda: altered("To: <sip:", "To: <sip:x")),
    "to_gets_a_tag": Case("uas", lambda: altered(r"(To: [^;\r]*);tag=\w+", r"\1")),
    "to_tag_stays": Case("uas", fresh_tags),
    "tags_differ": Case("uas", lambda: altered(r"(\r\nTo: [^\r]*;tag=)\w+", r"\1same")),
    "no_extension_unasked": Case("uas", lambda: with_row("Require: 100rel")),
    "content_length_is_right": Case("uas", lambda: altered(r"Content-Length: \d+", "Content-Length: 7")),
    "lines_end_in_crlf": Case("uas", lambda: altered("\r\nTo: ", "\nTo: ")),
}

INSPECTION = {
    "known_method_gets_405": Case("uas", lambda: replies("200 OK", "^PUBLISH")),
    "refusal_of_method_has_allow": Case("uas", lambda: without("Allow", of="^SIP/2.0 405")),
    "allow_lists_methods": Case("uas", lambda: altered(r"Allow: [^\r]*", "Allow: BYE", of="^SIP/2.0 405")),
    "allow_lists_ack_and_cancel": Case("uas", lambda: altered(r"Allow: [^\r]*", "Allow: INVITE, BYE")),
    "unknown_method_gets_501": Case("uas", lambda: replies("405 Method Not Allowed", "^CONFORM")),
    "unknown_header_field_is_ignored": Case("uas", lambda: replies("400 Bad Request", "X-Conformance-Unknown")),
    "malformed_header_field_is_ignored": Case("uas", lambda: replies("400 Bad Request", "Date: yesterday")),
    "header_field_of_responses_is_ignored": Case("uas", lambda: replies("400 Bad Request", "Unsupported: ")),
    "unknown_scheme_in_to_is_accepted": Case("uas", lambda: replies("400 Bad Request", "To: <x-unknown:")),
    "unknown_scheme_in_request_uri_gets_416": Case("uas", lambda: replies("404 Not Found", "^OPTIONS x-unknown:")),
    "merged_request_gets_482": Case("uas", lambda: status("482", "200 OK")),
    "unknown_option_tag_gets_420": Case("uas", lambda: status("420", "200 OK")),
    "require_of_register_is_processed": Case("registrar", lambda: status("420", "200 OK")),
    "unsupported_lists_the_tag": Case("uas", lambda: without("Unsupported")),
    "unknown_type_gets_415": Case("uas", lambda: status("415", "488 Not Acceptable Here")),
    "refusal_of_type_has_accept": Case("uas", lambda: without("Accept", of="^SIP/2.0 415")),
    "unknown_encoding_gets_415": Case("uas", lambda: without("Accept-Encoding", of="^SIP/2.0 415")),
    "optional_body_is_ignored": Case("uas", lambda: replies("415 Unsupported Media Type", "handling=optional")),
}

REDIRECTION = {
    "sends_no_requests": Case("redirect", lambda: followed("OPTIONS")),
    "never_accepts": Case("redirect", lambda: status("302", "200 OK")),
    "names_contacts": Case("redirect", lambda: without("Contact")),
    "does_not_redirect_to_itself": Case(
        "redirect", lambda: altered("<sip:alice@192[^>]*>", "<sip:%61lice@198.51.100.1>")
    ),
    "cancel_gets_2xx": Case("redirect", lambda: replies("481 Call/Transaction Does Not Exist", "^CANCEL")),
    "keeps_the_transaction": Case("redirect", fresh_tags),
    "ignores_header_fields": Case("redirect", lambda: replies("400 Bad Request", "X-Conformance-Unknown")),
    "ignores_require": Case("redirect", lambda: replies("420 Bad Extension", "Require: ")),
    "redirects_unknown_methods": Case("redirect", lambda: replies("501 Not Implemented", "^CONFORM")),
    "ack_is_absorbed": Case("redirect", lambda: ignores("^ACK")),
}

CANCELLATION = {
    "unknown_cancel_gets_481": Case("uas", lambda: replies("200 OK", "^CANCEL")),
    "matched_cancel_gets_200": Case("unattended", lambda: replies("481 Unknown", "^CANCEL")),
    "cancel_has_the_tag": Case("redirect", lambda: replies("200 OK", "^CANCEL")),
    "cancelled_invite_gets_487": Case("unattended", lambda: status("487", "486 Busy Here")),
    "late_cancel_changes_nothing": Case("redirect", lambda: changed_after("CANCEL", "302", "486 Busy Here")),
    "cancel_of_another_method": Case("uas", lambda: replies("487 Request Terminated", _NOT_THE_SPECIMEN)),
    "cancel_is_not_challenged": Case("uas", lambda: replies("401 Unauthorized", "^CANCEL")),
    "require_in_cancel_is_ignored": Case("uas", lambda: replies("420 Bad Extension", "^CANCEL")),
}

REGISTRATION = {
    "success_is_200": Case("registrar", lambda: status("200", "202 Accepted")),
    "lists_every_binding": Case("registrar", lambda: altered(r"Contact: <sip:desk[^\r]*\r\n", "")),
    "lists_intervals": Case("registrar", lambda: altered(r";expires=\d+", "")),
    "has_date": Case("registrar", lambda: without("Date")),
    "query_changes_nothing": Case("registrar", lambda: reads(_QUERY, _ADDED_REMOVAL)),
    "parameter_is_the_interval": Case("registrar", lambda: reads(";expires=700", "")),
    "header_field_is_the_interval": Case("registrar", lambda: reads("\r\nExpires: 700", "")),
    "default_interval": Case("registrar", lambda: altered(";expires=3600", ";expires=0")),
    "an_hour_is_enough": Case("registrar", lambda: replies("423 Interval Too Brief", "Expires: 3600")),
    "refusal_of_interval_has_minimum": Case("registrar", lambda: without("Min-Expires")),
    "another_call_id_removes": Case("registrar", lambda: reads(";expires=0", ";expires=900")),
    "higher_cseq_updates": Case("registrar", lambda: reads("Expires: 600", "Expires: 900")),
    "lower_cseq_fails": Case("registrar", lambda: reads("CSeq: 19 ", "CSeq: 21 ")),
    "all_or_nothing": Case(
        "registrar", lambda: both(reads("CSeq: 19 ", "CSeq: 21 "), status("200", "500 No", of="CSeq: 21 "))
    ),
    "star_with_interval_gets_400": Case("registrar", lambda: replies("200 OK", r"Contact: \*.*Expires: 600")),
    "star_with_contact_gets_400": Case("registrar", lambda: replies("200 OK", r"Contact: \*\r\nContact: ")),
    "star_removes_all": Case("registrar", lambda: replies("403 Forbidden", r"Contact: \*")),
    "star_with_lower_cseq_fails": Case("registrar", lambda: reads("CSeq: 19 ", "CSeq: 21 ")),
    "contacts_are_compared_as_uris": Case("registrar", lambda: reads("%64esk@PHONES", "other@phones")),
    "parameters_of_the_aor_do_not_count": Case("registrar", lambda: reads("conformance@([^;>]*);user=phone", r"x@\1")),
    "escapes_of_the_aor_are_undone": Case("registrar", lambda: reads("%63onformance", "x")),
    "another_domain_gets_404": Case("one domain", lambda: replies("400 Bad Request", "^REGISTER sip:198.*@elsewhere")),
    "record_route_is_ignored": Case("registrar", lambda: replies("420 Bad Extension", "Record-Route")),
    "no_record_route": Case("registrar", lambda: with_row("Record-Route: <sip:proxy.example.com;lr>")),
    "generates_no_6xx": Case("registrar", lambda: replies("606 Not Acceptable", "Contact: <sip:>")),
    "path_is_returned": Case("registrar", lambda: altered(r"Path: <sip:edge[^\r]*\r\n", "")),
}

CAPABILITIES = {
    "options_is_answered": Case("uas", lambda: ignores("^OPTIONS")),
    "options_as_invite": Case("uas", lambda: status("200", "486 Busy Here", of=_OPTIONS)),
    "options_has_allow": Case("uas", lambda: without("Allow")),
    "options_has_accept": Case("uas", lambda: without("Accept")),
    "options_has_accept_encoding": Case("uas", lambda: without("Accept-Encoding")),
    "options_has_accept_language": Case("uas", lambda: without("Accept-Language")),
    "options_has_supported": Case("uas", lambda: without("Supported")),
    "max_forwards_is_for_proxies": Case("uas", lambda: replies("483 Too Many Hops", "Max-Forwards: 0")),
}

CALLS = {
    "acceptance_has_contact": Case("uas", lambda: without("Contact")),
    "contact_is_sip": Case("uas", lambda: altered("Contact: <sip:[^>]*>", "Contact: <tel:+1>")),
    "record_routes_are_copied": Case("uas", lambda: altered(r"Record-Route: <sip:two[^\r]*\r\n", "")),
    "record_routes_are_in_order": Case(
        "uas", lambda: altered(r"(Record-Route: [^\r]*\r\n)(Record-Route: [^\r]*\r\n)", r"\2\1")
    ),
    "acceptance_has_allow": Case("uas", lambda: without("Allow")),
    "acceptance_has_supported": Case("uas", lambda: without("Supported")),
    "offer_is_answered": Case("uas", lambda: without("Content-Type")),
    "offer_is_made": Case("uas", lambda: without("Content-Type")),
    "acceptance_is_sent_again": Case("uas", once),
    "acceptance_ends_with_ack": Case("uas", lambda: ignores("^ACK")),
    "retransmission_is_no_second_call": Case("uas", fresh_tags),
    "one_dialog": Case("telephone", fresh_tags),
    "expired_invite_gets_487": Case("unattended", lambda: reads("Expires: 1", "Expires: 100")),
    "options_in_dialog": Case("uas", lambda: replies("481 Unknown", r"^OPTIONS.*\r\nTo: [^\r]*;tag=")),
    "unknown_dialog_gets_481": Case("uas", lambda: replies("404 Not Found", "no-such-dialog")),
    "lower_cseq_gets_500": Case("uas", lambda: replies("200 OK", "CSeq: 99 ")),
    "gap_in_cseq_is_accepted": Case("uas", lambda: replies("500 Server Internal Error", "CSeq: 50 ")),
    "bye_gets_2xx": Case("uas", lambda: replies("500 Server Internal Error", "^BYE")),
    "stray_bye_gets_481": Case("uas", lambda: replies("200 OK", "^BYE")),
    "bye_without_tag_gets_481": Case("uas", lambda: replies("200 OK", "^BYE")),
    "bye_ends_the_dialog": Case("uas", lambda: replies("200 OK", "^BYE")),
}

TRANSACTIONS = {
    "invite_is_answered_at_once": Case("redirect", lambda: late(2, of="CSeq: 1 INVITE")),
    "trying_has_no_tag": Case("slow", lambda: preceded("100 Trying")),
    "repeated_invite_gets_response": Case("unattended", once),
    "refusal_is_sent_again": Case("uas", once),
    "refusal_is_sent_once_on_streams": Case("uas", lambda: doubled("^SIP/2.0 420"), "TCP"),
    "repeated_invite_gets_refusal": Case("redirect", fresh_tags),
    "ack_ends_retransmissions": Case("redirect", lambda: ignores("^ACK")),
    "further_acks_are_absorbed": Case("redirect", lambda: replies("200 OK", "^ACK")),
    "ack_is_not_answered": Case("uas", lambda: replies("481 Unknown", "^ACK")),
    "repeated_request_gets_same_response": Case("uas", fresh_tags),
    "sent_by_tells_transactions_apart": Case("uas", matches_by_branch_alone),
    "call_id_tells_old_requests_apart": Case("uas", matches_by_branch_alone),
}

STATELESS = {
    "answers_again": Case("stateless", once),
    "sends_no_provisional": Case("stateless", lambda: preceded("100 Trying")),
    "does_not_retransmit": Case("stateless", doubled),
    "ignores_ack": Case("stateless", lambda: replies("481 Unknown", "^ACK")),
    "ignores_cancel": Case("stateless", lambda: replies("481 Unknown", "^CANCEL")),
    "same_tag_again": Case("stateless", fresh_tags),
}

TRANSPORTS = {
    "listens_by_tcp_too": Case("uas", lambda: Fault(listens_by_tcp=False)),
    "name_gets_received": Case("uas", lambda: altered(r";received=[^;\r]*", "")),
    "received_is_the_source": Case(
        "uas", lambda: altered(r";received=[^;\r]*", ";received=203.0.113.9", of="client.invalid")
    ),
    "response_goes_to_sent_by_port": Case("uas", lambda: Fault(is_misdirected=True)),
    "rport_is_filled_in": Case("uas", lambda: altered(r";rport=\d+", ";rport=1")),
    "response_goes_back": Case("uas", lambda: Fault(port=5070)),
    "large_message_is_handled": Case("uas", lambda: ignores("X-Filling-90")),
    "surplus_is_discarded": Case("uas", lambda: replies("400 Bad Request", "surplus")),
    "short_datagram_gets_400": Case("uas", lambda: status("400", "200 OK")),
    "datagram_needs_no_content_length": Case("uas", lambda: replies("400 Bad Request", "^(?!.*Content-Length)")),
    "requests_in_one_segment": Case("uas", lambda: reads(r"^(OPTIONS.*?\r\n\r\n)OPTIONS.*", r"\1"), "TCP"),
    "request_in_pieces": Case("uas", lambda: ignores("^OPTIONS$"), "TCP"),
    "response_comes_by_the_connection": Case("uas", lambda: Fault(is_misdirected=True), "TCP"),
    "connection_stays_open": Case("uas", lambda: Fault(closes=True), "TCP"),
    "leading_crlf_is_ignored": Case("uas", lambda: replies("400 Bad Request", "^\r\n\r\nOPTIONS"), "TCP"),
    "ping_is_answered": Case("uas", lambda: doubled("^\r\n$"), "TCP"),
}

SYNTAX = {
    "version_has_no_case": Case("uas", lambda: replies("505 Version Not Supported", "sip/2.0")),
    "comma_list_of_vias": Case("uas", lambda: altered(r", SIP/2.0/UDP two[^\r]*", "")),
    "compact_names": Case("uas", lambda: replies("400 Bad Request", "\r\nf:")),
    "names_have_no_case": Case("uas", lambda: replies("400 Bad Request", "\r\nfROM:")),
    "white_space_around_colons": Case("uas", lambda: replies("400 Bad Request", "\r\nFrom \t :")),
    "folded_header_fields": Case("uas", lambda: replies("400 Bad Request", "\r\n  <")),
    "folded_cseq": Case("uas", lambda: replies("400 Bad Request", r"CSeq: \d+\r\n")),
    "odd_method_is_answered": Case("uas", lambda: replies("400 Bad Request", "^!interesting")),
    "escaped_user": Case("redirect", lambda: replies("404 Not Found", "^INVITE sip:%")),
    "long_values": Case("uas", lambda: replies("400 Bad Request", "extreme proportion")),
    "unknown_transport_in_via": Case("uas", lambda: altered("SIP/2.0/UNKNOWN", "SIP/2.0/UDP")),
    "request_without_branch": Case("uas", lambda: replies("400 Bad Request", "^(?!.*branch=)")),
    "unknown_uri_parameter": Case("uas", lambda: replies("404 Not Found", ";x-unknown=1")),
    "missing_header_fields": Case("uas", lambda: status("400", "200 OK")),
    "reason_names_the_fault": Case("uas", lambda: status("400", "400 Bad Request")),
    "cseq_of_another_method": Case("uas", lambda: status("400", "200 OK")),
    "huge_cseq": Case("uas", lambda: status("400", "200 OK")),
    "negative_content_length": Case("uas", lambda: status("400", "200 OK")),
    "unbalanced_quote": Case("uas", lambda: status("400", "200 OK")),
    "request_uri_in_brackets": Case("uas", lambda: status("400", "404 Not Found")),
    "request_uri_with_space": Case("uas", lambda: status("400", "404 Not Found")),
    "another_version": Case("uas", lambda: status("505", "200 OK")),
    "repeated_header_fields": Case("uas", lambda: status("400", "200 OK")),
}

FAULTS = {
    **RESPONSES,
    **INSPECTION,
    **REDIRECTION,
    **CANCELLATION,
    **REGISTRATION,
    **CAPABILITIES,
    **CALLS,
    **TRANSACTIONS,
    **STATELESS,
    **TRANSPORTS,
    **SYNTAX,
}
