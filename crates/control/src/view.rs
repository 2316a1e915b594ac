//! Stored rows as the API shows them: with their revision, and with what is known only now.

use crate::{
    core::Control,
    network, node, operation, project,
    rows::{GroupRow, ImageRow, InstanceRow, NetworkRow, NodeRow, OperationRow, ProjectRow, SnapshotRow, VolumeRow},
    volume,
};
use yun_api::cloud::AnyObject;
use yun_store::{Row, Stored};
use yun_types::{Group, Image, Instance, Metadata, Name, Network, Node, Operation, Project, Snapshot, Volume};

/// A row that the API shows.
pub trait Noun: Stored + Clone {
    /// What it is shown as.
    type Shown;
    /// Its identity.
    fn metadata(&self) -> &Metadata;
    /// It as the API shows it.
    fn show(control: &Control, row: &Row<Self>) -> Self::Shown;
    /// The same among objects of all kinds.
    fn any(shown: Self::Shown) -> AnyObject;
    /// The project whose viewers may see it; `None` if it belongs to the cloud.
    fn owner(&self) -> Option<&Name> {
        self.metadata().project.as_ref()
    }
}

impl Noun for InstanceRow {
    type Shown = Instance;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(_: &Control, row: &Row<Self>) -> Instance {
        let mut shown = row.value.0.clone();
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Instance) -> AnyObject {
        AnyObject::Instance(shown)
    }
}

impl Noun for GroupRow {
    type Shown = Group;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(_: &Control, row: &Row<Self>) -> Group {
        let mut shown = row.value.0.clone();
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Group) -> AnyObject {
        AnyObject::Group(shown)
    }
}

impl Noun for ImageRow {
    type Shown = Image;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(_: &Control, row: &Row<Self>) -> Image {
        let mut shown = row.value.0.clone();
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Image) -> AnyObject {
        AnyObject::Image(shown)
    }
}

impl Noun for NetworkRow {
    type Shown = Network;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(control: &Control, row: &Row<Self>) -> Network {
        network::view(control, row)
    }
    fn any(shown: Network) -> AnyObject {
        AnyObject::Network(shown)
    }
}

impl Noun for NodeRow {
    type Shown = Node;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(control: &Control, row: &Row<Self>) -> Node {
        let mut shown = node::view(control, &row.value);
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Node) -> AnyObject {
        AnyObject::Node(shown)
    }
}

impl Noun for OperationRow {
    type Shown = Operation;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(control: &Control, row: &Row<Self>) -> Operation {
        let mut shown = operation::view(control, row);
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Operation) -> AnyObject {
        AnyObject::Operation(shown)
    }
}

impl Noun for SnapshotRow {
    type Shown = Snapshot;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(_: &Control, row: &Row<Self>) -> Snapshot {
        let mut shown = row.value.0.clone();
        shown.metadata.revision = row.rev.to_string();
        shown
    }
    fn any(shown: Snapshot) -> AnyObject {
        AnyObject::Snapshot(shown)
    }
}

impl Noun for VolumeRow {
    type Shown = Volume;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(control: &Control, row: &Row<Self>) -> Volume {
        volume::view(control, row)
    }
    fn any(shown: Volume) -> AnyObject {
        AnyObject::Volume(shown)
    }
}

impl Noun for ProjectRow {
    type Shown = Project;
    fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
    fn show(control: &Control, row: &Row<Self>) -> Project {
        project::view(control, row)
    }
    fn any(shown: Project) -> AnyObject {
        AnyObject::Project(shown)
    }
    fn owner(&self) -> Option<&Name> {
        Some(&self.0.metadata.name)
    }
}
