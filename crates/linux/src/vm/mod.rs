//! Virtual machines: QEMU, driven through its control protocol.
//!
//! A QEMU process belongs to no session and no terminal of ours: it lives on when yun ends, and is found again by its pid with its start
//! time. What it needs is written down before it starts ([`files`]), how it ended by QEMU itself ([`journal`]). This module decides
//! nothing about which VMs should run. Words: a *run* is one life of a VM from start to end; a *plan* is what `prepare` decided.

mod accel;
mod answer;
mod cidata;
mod console;
mod disk;
mod engine;
mod files;
mod guest;
mod hand_over;
mod identity;
mod inside;
mod journal;
mod keep;
mod launch;
mod log;
mod machine;
mod memory;
mod plug;
mod process;
mod qmp;
mod resize;
mod share;
mod snapshot;
mod socket;
mod watch;

pub use accel::AccelChoice;

use crate::host::Host;
use accel::Verdict;
use async_trait::async_trait;
use bytes::Bytes;
use disk::CheckedImages;
use engine::Version;
use files::{Connection, DirectBoot, Files, Plan, Run};
use futures::{StreamExt, stream::BoxStream};
use launch::Circumstances;
use machine::Machine;
use serde_json::json;
use std::{
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OnceCell, mpsc};
use yun_drivers::{
    Attachment, DriverError, ErrorKind, Fittings, InstanceDriver, InstanceHandle, LocalImage, Observed, Port, Result,
};
use yun_engine::session::{ExecRequest, LogLine, LogRequest, Session};
use yun_types::{Arch, DesiredInstance, DriverFacts, Exit, InstanceId, InstanceKind, VmBoot};

/// What an operator may choose about VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmDriverOptions {
    /// How their instructions run.
    pub accel: AccelChoice,
    /// The emulator, if not the one of the host's architecture in `PATH`.
    pub program: Option<String>,
}

/// The QEMU of a VM that runs now: for readers of what it uses.
pub(crate) fn process_of(host: &Host, id: InstanceId) -> Option<i32> {
    let run = Files::of(host, id).last_run()?;
    run.is_alive().then_some(run.process.pid)
}

/// Makes VMs real. Cheap to share; dropping it ends no VM.
#[derive(Debug)]
pub struct VmDriver {
    host: Host,
    options: VmDriverOptions,
    machines: Mutex<HashMap<InstanceId, Arc<Machine>>>,
    images: CheckedImages,
    facts: OnceCell<(Version, Verdict)>,
}

impl VmDriver {
    /// A driver for the VMs of this host. Touches nothing yet.
    pub fn new(host: Host, options: VmDriverOptions) -> Self {
        Self { host, options, machines: Mutex::default(), images: CheckedImages::default(), facts: OnceCell::new() }
    }

    fn program(&self) -> &str {
        self.options.program.as_deref().unwrap_or_else(|| engine::program_name())
    }

    fn machine(&self, id: InstanceId) -> Arc<Machine> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(machines.entry(id).or_insert_with(|| Arc::new(Machine::new(&self.host, id))))
    }

    fn forget(&self, id: InstanceId) {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// QEMU's version and how VMs run; found out once. An absent QEMU is looked for again each time: it may be installed meanwhile.
    async fn facts(&self) -> Result<&(Version, Verdict)> {
        let find = async || {
            if Arch::host() != Arch::Amd64 {
                let message = format!("VMs need an amd64 host, and this one is {}; containers work", Arch::host());
                return Err(DriverError::unavailable("WrongArch", message));
            }
            let version = engine::version(self.program()).await?;
            let verdict = accel::decide(&self.host, self.options.accel, self.program(), &version.to_string()).await;
            Ok((version, verdict))
        };
        self.facts.get_or_try_init(find).await
    }

    fn handle(&self, plan: &Plan, run: Option<&Run>) -> InstanceHandle {
        let driver = match run {
            None => json!({}),
            Some(run) => json!({"process": run.process, "boot_id": run.boot_id, "accel": run.accel}),
        };
        InstanceHandle { id: plan.id, kind: InstanceKind::Vm, generation: plan.generation, driver }
    }
}

/// Refuses an image that a VM cannot start from.
fn check_image(instance: &DesiredInstance, image: &LocalImage) -> Result<()> {
    let (name, of) = (&instance.name, &instance.image.name);
    if image.kind != InstanceKind::Vm {
        let message = format!(
            "cannot make VM {name} from image {of}: that is a container image; make a container of it or choose a VM image"
        );
        return Err(DriverError::bad_request("WrongImageKind", message));
    }
    if image.disk.is_none() && image.kernel.is_none() {
        let message = format!("cannot make VM {name}: image {of} has neither a disk nor a kernel; import it again");
        return Err(DriverError::new(ErrorKind::Damaged, "ImageDamaged", message));
    }
    let Some(kernel) = &image.kernel else { return Ok(()) };
    let found = kernel_arch(kernel).map_err(|e| {
        let message =
            format!("cannot make VM {name}: the kernel of image {of} cannot be read: {e}; import the image again");
        DriverError::new(ErrorKind::Damaged, "ImageDamaged", message).with(e)
    })?;
    match found {
        Some(arch) if arch != Arch::host() => {
            let message = format!("cannot make VM {name}: image {of} is for {arch}, and this node is {}", Arch::host());
            Err(DriverError::bad_request("WrongArch", message))
        }
        _ => Ok(()),
    }
}

/// The architecture of a Linux kernel, by the magic numbers of its boot protocols (Documentation/arch/{x86/boot,arm64/booting,riscv/boot-image-header}).
fn kernel_arch(path: &Path) -> io::Result<Option<Arch>> {
    let mut file = std::fs::File::open(path)?;
    let mut at = |offset: u64| -> io::Result<[u8; 4]> {
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut magic)?;
        Ok(magic)
    };
    Ok(match (at(0x202)?, at(56)?) {
        (x86, _) if &x86 == b"HdrS" => Some(Arch::Amd64),
        (_, arm) if &arm == b"ARM\x64" => Some(Arch::Arm64),
        (_, riscv) if &riscv == b"RSC\x05" => Some(Arch::Riscv64),
        _ => None,
    })
}

fn plan_of(instance: &DesiredInstance, image: &LocalImage, network: Option<&Attachment>) -> Result<Plan> {
    let cmdline = match &image.boot {
        Some(VmBoot::Kernel { cmdline }) => Some(cmdline.clone()),
        Some(VmBoot::Disk) => None,
        None => image.kernel.as_ref().map(|_| String::new()),
    };
    let kernel = cmdline.zip(image.kernel.clone()).map(|(cmdline, kernel)| DirectBoot {
        kernel,
        initrd: image.initrd.clone(),
        cmdline,
    });
    let network = network.map(|attachment| connection_of(instance, attachment)).transpose()?;
    Ok(Plan {
        id: instance.id,
        name: instance.name.clone(),
        generation: instance.generation,
        cpu: instance.spec.size.cpu,
        memory_mib: instance.spec.size.memory.ceil_mib(),
        base: image.disk.clone(),
        kernel,
        network,
    })
}

fn connection_of(instance: &DesiredInstance, attachment: &Attachment) -> Result<Connection> {
    let Port::Tap { interface } = &attachment.port else {
        let message = format!(
            "cannot connect VM {}: it was given the network of a container; detach it and try again",
            instance.name
        );
        return Err(DriverError::new(ErrorKind::Internal, "WrongPort", message));
    };
    let nic = &attachment.nic;
    Ok(Connection {
        network: attachment.network,
        tap: interface.clone(),
        mac: nic.mac.clone(),
        address: nic.address,
        prefix: Some(attachment.cidr.prefix_len()),
        gateway: Some(attachment.gateway),
        mtu: attachment.mtu,
    })
}

/// Writes the cloud-init volume if it differs from the one that is there. A running guest keeps the one it started with.
fn write_cidata(files: &Files, instance: &DesiredInstance, network: Option<&Attachment>) -> Result<()> {
    let (path, volume) = (files.cidata(), cidata::volume_with(instance, network, &files.fittings().interfaces)?);
    if std::fs::read(&path).is_ok_and(|there| there == volume) {
        return Ok(());
    }
    files::replace(&path, &volume)
        .map_err(|e| DriverError::io(format!("write the cloud-init volume of VM {}", instance.name), e))
}

impl yun_drivers::FileAccess for VmDriver {}

#[async_trait]
impl InstanceDriver for VmDriver {
    async fn probe(&self) -> Result<DriverFacts> {
        let facts = |ready, engine, accel, message| DriverFacts { driver: "vm".into(), ready, engine, accel, message };
        let (version, verdict) = match self.facts().await {
            Ok(found) => found,
            Err(error) if error.kind == ErrorKind::Unavailable => {
                return Ok(facts(false, None, None, Some(error.message)));
            }
            Err(error) => return Err(error),
        };
        let old = (*version < engine::OLDEST)
            .then(|| format!("QEMU {version} is older than {}, the oldest that is tried; upgrade it", engine::OLDEST));
        let message = verdict.message.iter().chain(&old).cloned().reduce(|a, b| format!("{a}; {b}"));
        Ok(facts(true, Some(format!("QEMU {version}")), Some(verdict.accel), message))
    }

    async fn prepare(
        &self,
        instance: &DesiredInstance,
        image: &LocalImage,
        network: Option<&Attachment>,
    ) -> Result<InstanceHandle> {
        check_image(instance, image)?;
        let plan = plan_of(instance, image, network)?;
        let machine = self.machine(instance.id);
        let _turn = machine.change.lock().await;
        let files = &machine.files;
        if let Some(base) = &image.disk {
            self.images.check(base, &format!("image {}", instance.image.name)).await?;
        }
        files.make()?;
        write_cidata(files, instance, network)?;
        crate::metadata::write(&files.dir, instance)?;
        let size = disk::ensure(files, &plan.name, image.disk.as_deref(), instance.spec.size.disk).await?;
        if disk::virtual_size(&files.disk(), &format!("the disk of VM {}", plan.name))? < size {
            machine.grow(&plan, size).await?;
        }
        files.write_plan(&plan)?;
        Ok(self.handle(&plan, machine.current().as_ref()))
    }

    async fn fit(&self, id: InstanceId, fittings: &Fittings) -> Result<()> {
        let machine = self.machine(id);
        let _turn = machine.change.lock().await;
        plug::fit(&machine, fittings).await
    }

    async fn start(&self, handle: &InstanceHandle) -> Result<InstanceHandle> {
        let machine = self.machine(handle.id);
        let _turn = machine.change.lock().await;
        let plan = machine.files.plan()?;
        if let Some(run) = machine.current()
            && machine.files.resume().exists()
        {
            // Cut short while it was given its memory: that is done again from the beginning.
            machine.kill(&run).await?;
        }
        if let Some(run) = machine.current() {
            let over = machine.follow(&run, None);
            machine.files.write_run(&run)?;
            // A start that was cut short may have left it before its processor executed. One that is too busy to say so still runs.
            match machine.executes(over).await {
                Err(error) if machine.current().is_none() => return Err(error),
                _ => {}
            }
            return Ok(self.handle(&plan, Some(&run)));
        }
        let (qemu, verdict) = self.facts().await?;
        machine.files.make()?;
        let plan = memory::fit(&machine.files, plan);
        launch::check(&plan, &machine.files)?;
        let on = Circumstances::of(verdict.accel, *qemu, &machine.files);
        let run = machine.start(&self.host, self.program(), &plan, on).await?;
        plug::limit_all(&machine).await?;
        Ok(self.handle(&plan, Some(&run)))
    }

    async fn ready(&self, handle: &InstanceHandle, deadline: Duration) -> Result<()> {
        let machine = self.machine(handle.id);
        let plan = machine.files.plan()?;
        // Without a network there is nobody to ask.
        let Some(network) = &plan.network else { return Ok(()) };
        tokio::select! {
            answered = identity::then_answer(&self.host, &machine, &plan, network, deadline) => answered,
            () = machine.ended() => {
                let name = &plan.name;
                let tail = log::last_lines(&machine.files.console_log(), 8);
                let message = format!("VM {name} ended before it answered on its network; its console ends with: {tail} (see yun logs {name})");
                Err(DriverError::new(ErrorKind::Internal, "EndedAtBoot", message))
            }
            () = tokio::time::sleep(deadline) => Err(machine.boot_failure(deadline)),
        }
    }

    async fn recover(&self, handle: &InstanceHandle) -> Result<Observed> {
        let machine = self.machine(handle.id);
        self.settled(&machine).await?;
        Ok(machine.observe().await)
    }

    async fn wait(&self, handle: &InstanceHandle) -> Result<Option<Exit>> {
        let machine = self.machine(handle.id);
        machine.ended().await;
        Ok(machine.last_exit())
    }

    async fn stop(&self, handle: &InstanceHandle, grace: Duration) -> Result<Option<Exit>> {
        let machine = self.machine(handle.id);
        if machine.current().is_some() && !grace.is_zero() {
            machine.ask_to_end(grace).await;
        }
        machine.end().await?;
        machine.ended().await;
        // Who stops it wants no memory of it.
        memory::forget(&machine.files)?;
        Ok(machine.last_exit())
    }

    async fn pause(&self, handle: &InstanceHandle) -> Result<()> {
        let machine = self.machine(handle.id);
        let _turn = machine.change.lock().await;
        machine.required("pause", "stop").await
    }

    async fn resume(&self, handle: &InstanceHandle) -> Result<()> {
        let machine = self.machine(handle.id);
        let _turn = machine.change.lock().await;
        memory::spend(&machine.files)?;
        machine.required("resume", "cont").await
    }

    async fn remove(&self, id: InstanceId) -> Result<()> {
        let machine = self.machine(id);
        let _turn = machine.change.lock().await;
        hand_over::settle(&machine).await?;
        if let Some(run) = machine.current() {
            machine.kill(&run).await?;
        }
        machine.console.close();
        leave_share(&self.host, id).await?;
        // The sockets first: while the directory with the disk is there, a removal that was cut short can be seen and finished.
        for path in [&machine.files.run, &machine.files.dir] {
            match std::fs::remove_dir_all(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(DriverError::io(format!("remove {}", path.display()), e));
                }
                _ => {}
            }
        }
        self.forget(id);
        Ok(())
    }

    async fn exec(&self, handle: &InstanceHandle, request: ExecRequest) -> Result<Session> {
        inside::exec(&self.machine(handle.id), request).await
    }

    async fn read_files(&self, id: InstanceId, path: &str) -> Result<BoxStream<'static, io::Result<Bytes>>> {
        inside::read(&self.machine(id), path).await
    }

    async fn write_files(
        &self,
        id: InstanceId,
        path: &str,
        archive: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<()> {
        inside::write(&self.machine(id), path, archive).await
    }

    async fn console(&self, handle: &InstanceHandle) -> Result<Session> {
        let machine = self.machine(handle.id);
        if machine.current().is_none() {
            let name = machine.name();
            let message = format!(
                "cannot open the console of VM {name}: it does not run; start it with yun start {name}, or read yun logs {name}"
            );
            return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
        }
        Ok(machine.console.open(machine.files.serial()))
    }

    async fn logs(&self, id: InstanceId, request: LogRequest) -> Result<BoxStream<'static, io::Result<LogLine>>> {
        let machine = self.machine(id);
        let opened = log::Reader::open(&machine.files.console_log(), &request);
        let opened =
            opened.map_err(|e| DriverError::io(format!("read the console log of VM {}", machine.name()), e))?;
        let Some(reader) = opened else {
            machine.files.plan()?;
            return Ok(futures::stream::empty().boxed());
        };
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(reader.send_all(request.follow, move || machine.current().is_some(), sender));
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

/// Gives the processor share back. The kernel needs a moment until a group whose process was just killed is empty.
async fn leave_share(host: &Host, id: InstanceId) -> Result<()> {
    let mut tries = 0;
    loop {
        match share::leave(&host.cgroup(), &id.to_string()) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) && tries < 100 => tries += 1,
            Err(e) => return Err(DriverError::io(format!("remove the cgroup of VM {id}"), e)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests;
