# SPDX-License-Identifier: GPL-2.0-or-later
complete -c smbdirectd -l config -d 'Read this configuration file [default: /etc/smbdirect/smbdirectd.toml, if it exists]' -r -F
complete -c smbdirectd -l listen -d 'Accept SMB Direct on this address, port 5445 unless it names one; may be given more than once' -r
complete -c smbdirectd -l fabric -d 'Fabric of addresses that have none in the configuration file: software, verbs (RDMA devices), or auto: the RDMA device that an address belongs to, otherwise software' -r
complete -c smbdirectd -l control -d 'Path of the control socket' -r -F
complete -c smbdirectd -l reactors -d 'Number of reactor threads, which carry the connections' -r
complete -c smbdirectd -l log -d 'What to log: a level (error, warn, info, debug, trace), or levels for modules' -r
complete -c smbdirectd -l crc -d 'Ask iWARP peers for CRCs'
complete -c smbdirectd -l no-crc -d 'Use CRCs with iWARP only if the peer asks for them'
complete -c smbdirectd -l check-config -d 'Print the configuration as it would be used, check it, and exit'
complete -c smbdirectd -s h -l help -d 'Print help'
complete -c smbdirectd -s V -l version -d 'Print version'
