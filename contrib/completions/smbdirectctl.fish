# SPDX-License-Identifier: GPL-2.0-or-later
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_smbdirectctl_global_optspecs
    string join \n h/help V/version
end

function __fish_smbdirectctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_smbdirectctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_smbdirectctl_using_subcommand
    set -l cmd (__fish_smbdirectctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -s V -l version -d 'Print version'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "status" -d 'Show connections, processes, and why connections ended'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "top" -d 'Show the current traffic on the whole screen, until q is pressed'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "events" -d 'Show what has happened: connections, processes, limits'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "metrics" -d 'Print the device\'s metrics for Prometheus, or write them to a file'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "capture" -d 'Write the traffic of a client, or of one connection, to a file for Wireshark'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "doctor" -d 'Examine this server: what keeps clients from using RDMA, and what to do'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "bench" -d 'Measure how fast a share is read and written, over TCP and over SMB Direct'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "bridge" -d 'Accept SMB over TCP and carry it over SMB Direct to a server, until a signal ends it'
complete -c smbdirectctl -n "__fish_smbdirectctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand status" -l watch -d 'Show rates per second until interrupted, updated every SECONDS (default 2)' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand status" -l control -d 'Path of smbdirectd\'s control socket, or of the kernel\'s device, /dev/smbdirect' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand status" -l users -d 'Show the users of the connections, as smbstatus reports them (only as root)'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand status" -l json -d 'Print everything the device reports, as JSON'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand top" -l interval -d 'Update the screen every SECONDS' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand top" -l sort -d 'Sort by this column first; the key s changes it' -r -f -a "traffic\t'Bytes in both directions'
in\t'Bytes from the client'
out\t'Bytes to the client'
age\t'Age of the connection'
name\t'Address of the client, or name of the user'"
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand top" -l control -d 'Path of smbdirectd\'s control socket, or of the kernel\'s device, /dev/smbdirect' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand top" -l users -d 'Show the users of the connections, as smbstatus reports them (only as root)'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand top" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand events" -l control -d 'Path of smbdirectd\'s control socket' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand events" -s f -l follow -d 'Keep printing new events until interrupted'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand events" -l json -d 'Print each event as JSON, on a line of its own'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand events" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand metrics" -l textfile -d 'Replace this file in one step instead of printing, for the textfile collector of node_exporter' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand metrics" -l control -d 'Path of smbdirectd\'s control socket, or of the kernel\'s device, /dev/smbdirect' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand metrics" -l connections -d 'Add series for each connection, with the client\'s address and port as a label'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -l peer -d 'Capture this client, or, with its port, one connection that smbdirectctl status lists' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -s w -l write -d 'Write the capture to this file; - stands for standard output' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -l bytes -d 'Capture this many bytes of what RDMA moves for each request, and of the file data in each message, or all' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -l seconds -d 'End the capture after this time' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -l control -d 'Path of smbdirectd\'s control socket' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand capture" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l client -d 'Also say what is known about the client at this address, and what to check there' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l client-script -d 'Print a script that gathers on a client what --client-report judges' -r -f -a "windows\t''
linux\t''"
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l client-report -d 'Also judge the output of that script; - is standard input' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l control -d 'Path of smbdirectd\'s control socket, or of the kernel\'s device, /dev/smbdirect' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l smbd -d 'The program smbd [default: the one that is attached, or else the first in the path]' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l smb-conf -d 'Samba\'s configuration file [default: that of the attached smbd, or else testparm\'s]' -r -F
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -l json -d 'Print the findings as JSON'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l listen -d 'Accept SMB over TCP on this address; may be given more than once' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l max-fragmented-size -d 'Largest message to reassemble from the server, in bytes' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l max-receive-size -d 'Largest SMB Direct message in either direction, in bytes' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l credits -d 'Maximum number of SMB Direct messages under way in each direction' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l max-connections -d 'Maximum number of clients at a time' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l fabric -d 'Fabric of SMB Direct: software, verbs (an RDMA device), or auto: an RDMA device if the server is reached through one, otherwise software' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l log -d 'What to log: a level (error, warn, info, debug, trace), or levels for modules' -r
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l crc -d 'Ask the server for CRCs'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -l json -d 'Print statistics as JSON at the end'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand bridge" -s h -l help -d 'Print help'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "status" -d 'Show connections, processes, and why connections ended'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "top" -d 'Show the current traffic on the whole screen, until q is pressed'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "events" -d 'Show what has happened: connections, processes, limits'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "metrics" -d 'Print the device\'s metrics for Prometheus, or write them to a file'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "capture" -d 'Write the traffic of a client, or of one connection, to a file for Wireshark'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "doctor" -d 'Examine this server: what keeps clients from using RDMA, and what to do'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "bench" -d 'Measure how fast a share is read and written, over TCP and over SMB Direct'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "bridge" -d 'Accept SMB over TCP and carry it over SMB Direct to a server, until a signal ends it'
complete -c smbdirectctl -n "__fish_smbdirectctl_using_subcommand help; and not __fish_seen_subcommand_from status top events metrics capture doctor bench bridge help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
