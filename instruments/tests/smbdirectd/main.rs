// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the programs as an administrator uses them: with real processes, sockets and signals.

mod bridge;
mod capture;
mod commands;
mod doctor;
mod drain;
mod events;
mod guides;
mod install;
mod life;
mod log;
mod manual;
mod metrics;
mod privileges;
mod reload;
mod restart;
mod status;
mod top;
