// SPDX-License-Identifier: GPL-2.0-or-later

//! What `top` knows about the device: its last report, and what has moved since the one before.

use super::super::status::Device;

/// How many seconds after a restart the screen says that there was one.
const NEW: f64 = 60.0;

/// The device as it is shown.
#[derive(Debug)]
pub(super) struct Scene {
    /// The last report. Its bytes count from the start of the device.
    last: Device,
    /// The last report with bytes per second, if the report before it was from the same device.
    pub(super) shown: Device,
    /// Processor time of the device in percent of one processor.
    pub(super) cpu: Option<f64>,
    /// Whether the device was restarted, and has been up for less than [`NEW`].
    pub(super) is_new: bool,
    /// Why the device does not answer.
    pub(super) silence: Option<String>,
}

impl Scene {
    /// Makes the scene from the first report of a device.
    pub(super) fn new(first: Device) -> Self {
        Self {
            last: first.clone(),
            shown: first,
            cpu: None,
            is_new: false,
            silence: None,
        }
    }

    /// Adds the answer of a device that was asked again. `Err` says why there is no report.
    pub(super) fn add(&mut self, answer: Result<Device, String>) {
        let report = match answer {
            Ok(report) => report,
            Err(reason) => return self.silence = Some(reason),
        };
        self.silence = None;
        let before = std::mem::replace(&mut self.last, report.clone());
        let seconds = report.uptime_seconds - before.uptime_seconds;
        let usage = report.usage.zip(before.usage);
        self.shown = report.since(&before);
        let is_same = self.shown.rates.is_some();
        self.cpu = usage.filter(|_| is_same).map(|(now, before)| {
            ((now.cpu_seconds - before.cpu_seconds) / seconds * 100.0).max(0.0)
        });
        // A second report within the same moment has no rates either, but is from the same device.
        let is_restart = self.last.start_time_seconds != before.start_time_seconds || seconds < 0.0;
        self.is_new = (is_restart || self.is_new) && self.last.uptime_seconds < NEW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(start: f64, uptime: f64, bytes: u64, cpu: f64) -> Device {
        serde_json::from_value(serde_json::json!({
            "start_time_seconds": start, "uptime_seconds": uptime, "usage": {"cpu_seconds": cpu},
            "connections": [{"peer": "10.0.0.5:1", "rdma_write_bytes": bytes, "age_seconds": uptime}],
        }))
        .unwrap()
    }

    #[test]
    fn shows_what_moved_between_two_reports() {
        let mut scene = Scene::new(report(1.0, 10.0, 1000, 5.0));
        assert_eq!(scene.cpu, None);
        scene.add(Ok(report(1.0, 12.0, 3000, 6.0)));
        assert_eq!(scene.shown.connections[0].rdma_write_bytes, 1000);
        assert_eq!(scene.cpu, Some(50.0));
        // The next rates come from the reports, not from the rates before.
        scene.add(Ok(report(1.0, 14.0, 4000, 6.0)));
        assert_eq!(scene.shown.connections[0].rdma_write_bytes, 500);
        assert_eq!(scene.cpu, Some(0.0));
        assert!(!scene.is_new);
    }

    #[test]
    fn goes_on_with_a_device_that_was_restarted() {
        let mut scene = Scene::new(report(1.0, 10.0, 1000, 5.0));
        scene.add(Err("gone".to_owned()));
        assert_eq!(scene.silence.as_deref(), Some("gone"));
        assert_eq!(scene.shown.uptime_seconds, 10.0, "the last report stays");
        scene.add(Ok(report(20.0, 1.0, 100, 0.1)));
        assert!(scene.is_new && scene.silence.is_none() && scene.cpu.is_none());
        assert!(scene.shown.rates.is_none());
        scene.add(Ok(report(20.0, 1.0, 100, 0.1)));
        assert!(scene.is_new, "no time has passed");
        scene.add(Ok(report(20.0, 2.0, 300, 0.1)));
        assert!(scene.is_new);
        assert_eq!(scene.shown.connections[0].rdma_write_bytes, 200);
        scene.add(Ok(report(20.0, 60.0, 300, 0.1)));
        assert!(!scene.is_new);
    }
}
