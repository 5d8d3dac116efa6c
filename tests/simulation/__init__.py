"""The real controller, tables, mailbox, roster and stream records among machines that exist only as
events in virtual time, so that years of faults pass in minutes and every one can be replayed."""
