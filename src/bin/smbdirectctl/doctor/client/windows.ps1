# SPDX-License-Identifier: GPL-2.0-or-later
# Gathers what decides on a Windows client whether SMB Direct is used, and prints it as JSON.
# Written by smbdirectctl @VERSION@: smbdirectctl doctor --client-script windows > check.ps1
#
# Copy a large file from or to the share, and run this meanwhile, preferably as an administrator:
#     powershell -ExecutionPolicy Bypass -File check.ps1 -Server 10.0.0.1 > report.json
# Then let the server judge the report:
#     smbdirectctl doctor --client-report report.json
#
# The script changes nothing. It needs Windows PowerShell 3.0 or newer, and no further modules. With -Server, the
# address of the server, it also tries to connect to TCP ports 445 and 5445 there, and sends nothing.
# The report has names of this machine, its network adapters, servers and shares, and IP addresses; no passwords.
param([string]$Server = '')

# Older versions of Windows lack some of the properties below. A profile may have made that an error.
Set-StrictMode -Off
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
$unread = New-Object System.Collections.ArrayList

# Limits the length of a text, which the report needs only for people.
function Limit($text) {
    $text = "$text"
    if ($text.Length -gt 120) { $text = $text.Substring(0, 120) }
    $text
}

# Returns a time as RFC 3339 has it, whatever calendar and separators this machine's users prefer.
function Format-Time([datetime]$Time) {
    $culture = [System.Globalization.CultureInfo]::InvariantCulture
    $Time.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ssZ', $culture)
}

# Runs a block. If it fails, the report says why it could not be read.
function Read-Fact([string]$Name, [scriptblock]$Block) {
    try {
        & $Block
    } catch {
        [void]$unread.Add((Limit ("{0}: {1}" -f $Name, ($_.Exception.Message -replace '\s+', ' '))))
    }
}

# Returns whether a TCP port can be connected to: open, refused, or silent if nothing answers within 3 seconds.
function Test-Port([string]$Address, [int]$Port) {
    $found = $null
    try {
        $found = [System.Net.IPAddress]::Parse($Address)
    } catch {
        try {
            $found = @([System.Net.Dns]::GetHostAddresses($Address))[0]
        } catch {
            return 'unresolved'
        }
    }
    $client = New-Object System.Net.Sockets.TcpClient($found.AddressFamily)
    try {
        $attempt = $client.BeginConnect($found, $Port, $null, $null)
        if (-not $attempt.AsyncWaitHandle.WaitOne(3000, $false)) { return 'silent' }
        $client.EndConnect($attempt)
        return 'open'
    } catch {
        return 'refused'
    } finally {
        $client.Close()
    }
}

$report = [ordered]@{
    smbdirect_client_report = 1
    script = '@VERSION@'
    system = 'windows'
    time = Format-Time (Get-Date)
    host = "$env:COMPUTERNAME"
    privileged = $false
}

Read-Fact 'user' {
    $identity = [System.Security.Principal.WindowsIdentity]::GetCurrent()
    $user = New-Object System.Security.Principal.WindowsPrincipal($identity)
    $role = [System.Security.Principal.WindowsBuiltInRole]::Administrator
    $report.privileged = [bool]$user.IsInRole($role)
}

Read-Fact 'Windows edition' {
    $key = Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
    $report.edition = "$($key.EditionID)"
    $report.release = "$($key.DisplayVersion)"
    $report.build = [int]$key.CurrentBuildNumber
}

Read-Fact 'Win32_OperatingSystem' {
    $os = Get-CimInstance Win32_OperatingSystem
    $report.name = Limit $os.Caption
    # 1: workstation, 2: domain controller, 3: server
    $report.is_server = [int]$os.ProductType -ne 1
}

# The feature is not listed if the edition does not have it.
Read-Fact 'SMBDirect feature' {
    $feature = @(Get-CimInstance Win32_OptionalFeature -Filter "Name='SMBDirect'")
    if ($feature.Count -eq 0) {
        $report.feature = 'Absent'
    } else {
        $state = [int]$feature[0].InstallState
        if ($state -eq 1) { $report.feature = 'Enabled' }
        if ($state -eq 2) { $report.feature = 'Disabled' }
        if ($state -eq 3) { $report.feature = 'Absent' }
    }
}
if (-not $report.Contains('feature')) {
    Read-Fact 'Get-WindowsOptionalFeature' {
        $feature = @(Get-WindowsOptionalFeature -Online -FeatureName SMBDirect)
        if ($feature.Count -eq 0 -or $null -eq $feature[0]) {
            $report.feature = 'Absent'
        } elseif ("$($feature[0].State)" -like 'Enable*') {
            $report.feature = 'Enabled'
        } else {
            $report.feature = 'Disabled'
        }
    }
}

Read-Fact 'Get-NetOffloadGlobalSetting' {
    $setting = Get-NetOffloadGlobalSetting
    $report.network_direct = "$($setting.NetworkDirect)"
    $report.across_subnets = "$($setting.NetworkDirectAcrossIPSubnets)"
}

Read-Fact 'Get-SmbClientConfiguration' {
    $configuration = Get-SmbClientConfiguration
    $report.configuration = [ordered]@{
        multichannel = $configuration.EnableMultiChannel
        require_signing = $configuration.RequireSecuritySignature
        require_encryption = $configuration.RequireEncryption
    }
}

Read-Fact 'Get-SmbClientNetworkInterface' {
    $report.interfaces = @(Get-SmbClientNetworkInterface | Select-Object -First 64 | ForEach-Object {
        [ordered]@{
            name = Limit $_.FriendlyName
            index = $_.InterfaceIndex
            speed = $_.LinkSpeed
            rdma = $_.RdmaCapable
            rss = $_.RssCapable
            addresses = @($_.IpAddresses | Select-Object -First 16 | ForEach-Object { "$_" })
        }
    })
}

Read-Fact 'Get-NetAdapterRdma' {
    $report.adapters = @(Get-NetAdapterRdma | Select-Object -First 64 | ForEach-Object {
        $technology = ''
        try {
            $property = @(Get-NetAdapterAdvancedProperty -Name $_.Name -RegistryKeyword '*NetworkDirectTechnology')
            $technology = "$($property[0].RegistryValue)"
        } catch {
            $technology = ''
        }
        [ordered]@{
            name = Limit $_.Name
            description = Limit $_.InterfaceDescription
            enabled = $_.Enabled
            operational = $_.Operational
            technology = $technology
        }
    })
}

Read-Fact 'Get-SmbConnection' {
    $report.connections = @(Get-SmbConnection | Select-Object -First 64 | ForEach-Object {
        [ordered]@{
            server = Limit $_.ServerName
            share = Limit $_.ShareName
            dialect = "$($_.Dialect)"
            encrypted = $_.Encrypted
            signed = $_.Signed
        }
    })
}

Read-Fact 'Get-SmbMultichannelConnection' {
    $report.channels = @(Get-SmbMultichannelConnection | Select-Object -First 64 | ForEach-Object {
        [ordered]@{
            server = Limit $_.ServerName
            client_address = "$($_.ClientIpAddress)"
            server_address = "$($_.ServerIpAddress)"
            client_rdma = $_.ClientRdmaCapable
            server_rdma = $_.ServerRdmaCapable
            selected = $_.Selected
            failed = $_.Failed
            failures = $_.FailureCount
            channels = $_.CurrentChannels
            rdma_channels = $_.RdmaConnectionCount
        }
    })
}

Read-Fact 'Get-NetFirewallProfile' {
    $report.firewall = @(Get-NetFirewallProfile | ForEach-Object {
        [ordered]@{
            profile = "$($_.Name)"
            enabled = "$($_.Enabled)"
            outbound = "$($_.DefaultOutboundAction)"
        }
    })
}

# Counts the warnings and errors of the last 7 days by their numbers; their texts are not needed.
$report.events = @()
foreach ($log in 'Microsoft-Windows-SmbClient/Connectivity', 'Microsoft-Windows-SMBDirect/Admin') {
    Read-Fact $log {
        $events = @()
        try {
            $filter = @{ LogName = $log; Level = 1, 2, 3; StartTime = (Get-Date).AddDays(-7) }
            $events = @(Get-WinEvent -FilterHashtable $filter -MaxEvents 1000)
        } catch {
            # The command fails if there are no such events.
            if ($_.FullyQualifiedErrorId -notlike 'NoMatchingEventsFound*') { throw }
        }
        $report.events += @($events | Group-Object Id | Select-Object -First 64 | ForEach-Object {
            [ordered]@{
                log = $log
                id = [int]$_.Name
                count = $_.Count
                last = Format-Time $_.Group[0].TimeCreated
            }
        })
    }
}

if ($Server -ne '') {
    Read-Fact 'connection attempts' {
        $report.server = [ordered]@{
            address = Limit $Server
            tcp_445 = Test-Port $Server 445
            tcp_5445 = Test-Port $Server 5445
        }
    }
}

$report.unread = @($unread | ForEach-Object { "$_" })
$json = ConvertTo-Json -InputObject $report -Depth 6
# Halves of surrogate pairs, which names may have, and which are left where a text was cut, are not allowed in JSON.
$halves = '[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]'
$json = [regex]::Replace($json, $halves, '?')
# With ASCII alone, it does not matter in which encoding the output is written.
[regex]::Replace($json, '[^\x00-\x7f]', { param($character) '\u{0:x4}' -f [int][char]$character.Value })
