{%- from "mailsrv/map.jinja" import mailsrv with context -%}
# Managed by Salt (mailsrv.dovecot): changes here are overwritten.
# One copy for each mailbox: a message to team@ and to ann@, who is in the team, is two deliveries to
# ann. All deliveries of one message have the identifier that smtpd(8) wrote into its Received.
require ["duplicate", "envelope", "subaddress", "variables"];

if header :matches "Received" "*by {{ mailsrv.hostname }} (OpenSMTPD) with * id *;*" {
  set "id" "${3}";
{%- if mailsrv.subaddress == "mailbox" %}
  if envelope :matches :detail "to" "*" {
    set :lower "to" "${1}";
  }
{%- endif %}
  if header :matches "Message-ID" "*" {
    set "message" "${1}";
  }
  if duplicate :seconds 600 :uniqueid "${id} ${to} ${message}" {
    discard;
    stop;
  }
}
