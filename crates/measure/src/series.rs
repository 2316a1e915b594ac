//! The names that Prometheus knows our metrics by, and their labels. The same names are exported at `/metrics` and asked for in PromQL.

use crate::subject::{Subject, SubjectKind};
use std::collections::BTreeMap;
use yun_types::Metric;

/// A family of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name, as in `yun_instance_cpu_seconds_total`.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// The metric behind it.
    pub metric: Metric,
    /// Of nodes, or of instances.
    pub of_nodes: bool,
}

macro_rules! families {
    ($($metric:ident $instance:literal $node:literal $help:literal;)*) => {
        &[$(
            Family { name: $instance, help: $help, metric: Metric::$metric, of_nodes: false },
            Family { name: $node, help: $help, metric: Metric::$metric, of_nodes: true },
        )*]
    };
}

/// All families.
pub fn families() -> &'static [Family] {
    families! {
        Cpu "yun_instance_cpu_seconds_total" "yun_node_cpu_seconds_total" "CPU time used";
        Memory "yun_instance_memory_working_set_bytes" "yun_node_memory_used_bytes" "Memory that cannot be taken back";
        Processes "yun_instance_processes" "yun_node_processes" "Processes and threads";
        DiskUsed "yun_instance_disk_used_bytes" "yun_node_disk_used_bytes" "Bytes on disk";
        DiskRead "yun_instance_disk_read_bytes_total" "yun_node_disk_read_bytes_total" "Bytes read from disks";
        DiskWritten "yun_instance_disk_written_bytes_total" "yun_node_disk_written_bytes_total" "Bytes written to disks";
        DiskReads "yun_instance_disk_reads_total" "yun_node_disk_reads_total" "Read operations of disks";
        DiskWrites "yun_instance_disk_writes_total" "yun_node_disk_writes_total" "Write operations of disks";
        NetIn "yun_instance_network_receive_bytes_total" "yun_node_network_receive_bytes_total" "Bytes received";
        NetOut "yun_instance_network_transmit_bytes_total" "yun_node_network_transmit_bytes_total" "Bytes sent";
        PacketsIn "yun_instance_network_receive_packets_total" "yun_node_network_receive_packets_total" "Packets received";
        PacketsOut "yun_instance_network_transmit_packets_total" "yun_node_network_transmit_packets_total" "Packets sent";
        CpuPressure "yun_instance_pressure_cpu_waiting_seconds_total" "yun_node_pressure_cpu_waiting_seconds_total" "Time in which something waited for a processor";
        MemoryPressure "yun_instance_pressure_memory_waiting_seconds_total" "yun_node_pressure_memory_waiting_seconds_total" "Time in which something waited for memory";
        IoPressure "yun_instance_pressure_io_waiting_seconds_total" "yun_node_pressure_io_waiting_seconds_total" "Time in which something waited for a disk";
    }
}

/// The family of a metric.
pub fn family(metric: Metric, of_nodes: bool) -> Option<&'static Family> {
    families().iter().find(|family| family.metric == metric && family.of_nodes == of_nodes)
}

/// The labels of a subject, without the name of the family.
pub fn exported(subject: &Subject) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("node".to_owned(), subject.node.to_string())]);
    let mut add = |name: &str, value: String| labels.insert(name.to_owned(), value);
    match subject.kind {
        SubjectKind::Node => return labels,
        SubjectKind::Vm => add("kind", "vm".into()),
        SubjectKind::Container => add("kind", "container".into()),
    };
    add("instance", subject.name.to_string());
    add("id", subject.id.to_string());
    if let Some(project) = &subject.project {
        add("project", project.to_string());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_families_and_names_follow_the_rules_of_prometheus() {
        for metric in Metric::ALL {
            for of_nodes in [false, true] {
                let family = family(metric, of_nodes).unwrap();
                assert_eq!(family.name.ends_with("_total"), metric.is_counter(), "{}", family.name);
                assert_eq!(family.name.contains("_seconds"), metric.is_time(), "{}", family.name);
            }
        }
    }
}
