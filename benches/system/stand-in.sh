#!/bin/sh
# Stands in for `portolan run -c FILE` in tests of the harness: FILE is a shell script.
. "$3"
