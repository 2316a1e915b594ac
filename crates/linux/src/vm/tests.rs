//! What needs no QEMU: refusals, plans, and answers about VMs that are not there.

use super::*;
use cidata::tests::{attachment, instance};
use yun_types::{ContainerConfig, Generation};

/// Whether a program is in `PATH`; says aloud that a test is skipped if not.
pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn image() -> LocalImage {
    LocalImage {
        digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        kind: InstanceKind::Vm,
        layers: vec![],
        config: ContainerConfig::default(),
        disk: Some("/images/base.qcow2".into()),
        kernel: None,
        initrd: None,
        boot: Some(VmBoot::Disk),
    }
}

/// A plan as tests want it.
pub(super) fn plan_for(instance: &DesiredInstance) -> Plan {
    plan_of(instance, &image(), None).unwrap()
}

fn driver(program: &str) -> (tempfile::TempDir, VmDriver) {
    let root = tempfile::tempdir().unwrap();
    let host = Host::open(root.path()).unwrap();
    let options = VmDriverOptions { accel: AccelChoice::Tcg, program: Some(program.into()) };
    (root, VmDriver::new(host, options))
}

fn kernel(dir: &Path, place: u64, magic: &[u8]) -> std::path::PathBuf {
    use std::os::unix::fs::FileExt;
    let path = dir.join("kernel");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(4096).unwrap();
    file.write_all_at(magic, place).unwrap();
    path
}

#[test]
fn images_that_no_vm_starts_from_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let web = instance(&[], None);
    let refusal = |image: &LocalImage| check_image(&web, image).unwrap_err();
    let arm = LocalImage { kernel: Some(kernel(dir.path(), 56, b"ARM\x64")), ..image() };
    let error = refusal(&arm);
    assert_eq!(
        error.message,
        format!("cannot make VM web: image small is for arm64, and this node is {}", Arch::host())
    );
    assert_eq!(error.kind, ErrorKind::BadRequest);
    assert_eq!(refusal(&LocalImage { kind: InstanceKind::Container, ..image() }).reason, "WrongImageKind");
    assert_eq!(refusal(&LocalImage { disk: None, ..image() }).kind, ErrorKind::Damaged);
    assert_eq!(refusal(&LocalImage { kernel: Some("/not/here".into()), ..image() }).kind, ErrorKind::Damaged);
    check_image(&web, &LocalImage { kernel: Some(kernel(dir.path(), 0x202, b"HdrS")), ..image() }).unwrap();
}

#[test]
fn a_plan_follows_the_image_and_the_network() {
    let web = instance(&[], None);
    let plan = plan_of(&web, &image(), Some(&attachment())).unwrap();
    assert_eq!((plan.memory_mib, plan.kernel.is_none()), (512, true));
    assert_eq!(plan.network.unwrap().tap, "yt00000007");
    let boot = Some(VmBoot::Kernel { cmdline: "quiet".into() });
    let direct = plan_of(&web, &LocalImage { kernel: Some("/k".into()), boot, ..image() }, None).unwrap();
    assert_eq!(direct.kernel.unwrap().cmdline, "quiet");
    let port = Port::Namespace { path: "/run/netns/x".into(), interface: "yv1".into() };
    assert_eq!(plan_of(&web, &image(), Some(&Attachment { port, ..attachment() })).unwrap_err().reason, "WrongPort");
}

#[tokio::test]
async fn a_missing_qemu_is_said_by_the_probe_and_by_a_start() {
    let (_root, driver) = driver("qemu-system-nowhere");
    let facts = driver.probe().await.unwrap();
    assert!(!facts.ready);
    assert_eq!(facts.message.unwrap(), "QEMU is not installed: run apt-get install qemu-system-x86");
    let plan = plan_of(&instance(&[], None), &image(), None).unwrap();
    let machine = driver.machine(plan.id);
    machine.files.make().unwrap();
    machine.files.write_plan(&plan).unwrap();
    let error = driver.start(&driver.handle(&plan, None)).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Unavailable, "QemuMissing"));
}

#[tokio::test]
async fn a_vm_that_is_not_there_is_absent_and_removable() {
    let (_root, driver) = driver("qemu-system-nowhere");
    let id = InstanceId(uuid::Uuid::from_u128(77));
    let handle = InstanceHandle { id, kind: InstanceKind::Vm, generation: Generation(1), driver: json!({}) };
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Absent);
    assert_eq!(driver.wait(&handle).await.unwrap(), None);
    assert_eq!(driver.stop(&handle, Duration::ZERO).await.unwrap(), None);
    driver.remove(id).await.unwrap();
    assert_eq!(driver.start(&handle).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(driver.pause(&handle).await.unwrap_err().reason, "NotRunning");
    assert_eq!(driver.console(&handle).await.unwrap_err().reason, "NotRunning");
    assert_eq!(driver.logs(id, LogRequest::default()).await.err().unwrap().kind, ErrorKind::NotFound);
    let error = driver.exec(&handle, ExecRequest::default()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.message.contains("yun start"), "{error}");
    driver.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_run_that_went_down_with_the_host_has_no_exit() {
    let (_root, driver) = driver("qemu-system-nowhere");
    let plan = plan_of(&instance(&[], None), &image(), None).unwrap();
    let machine = driver.machine(plan.id);
    machine.files.make().unwrap();
    machine.files.write_plan(&plan).unwrap();
    // This very process, but in another boot: the same numbers, and yet not it.
    let process = process::Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    let run =
        Run { process, boot_id: "another".into(), since: chrono::Utc::now(), accel: yun_types::Accel::Tcg, exit: None };
    machine.files.write_run(&run).unwrap();
    let handle = driver.handle(&plan, None);
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Ended { exit: None });
    // A pid file that names a stranger makes no VM of it.
    std::fs::write(machine.files.pid(), process.pid.to_string()).unwrap();
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Ended { exit: None });
    driver.remove(plan.id).await.unwrap();
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Absent);
}
