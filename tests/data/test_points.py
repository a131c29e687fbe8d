"""Point clouds as data: sets and masks, meshes, furniture's catalogue, KITTI's files, simulated LiDAR."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError, SplitError
from tutelage.core.rng import generator
from tutelage.data.fetch import verified_folder
from tutelage.data.guard import training_only
from tutelage.data.points import PointSet, check_cloud, mesh_folder, normalised, padded, read_mesh, sample_mesh, thinned, turned
from tutelage.data.points.clusters import clusters
from tutelage.data.points.furniture import CLASSES, catalogue, class_of, families, shapes
from tutelage.data.points.kitti import kitti_frames, read_calib, read_kitti_frame, read_labels, read_velodyne
from tutelage.data.points.lidar import GROUND, Lidar, Placed, simulate
from tutelage.data.points.meshes import coarsened

TRIANGLE_OFF = "OFF\n4 2 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"  # a 2 x 1 rectangle


def clouds(n: int = 6, points: int = 20) -> PointSet:
    x = torch.randn(n, points, 3, generator=generator(0, "clouds"))
    return PointSet(x, torch.arange(n) % 2, ("a", "b"), groups=torch.arange(n) // 2, split="train")


# sets, masks, what is refused


def test_a_set_gives_batches_of_points_masks_and_labels() -> None:
    data = clouds()
    points, mask, labels = data[[0, 3]]
    assert (points.shape, mask.shape, labels.tolist()) == ((2, 20, 3), (2, 20), [0, 1])
    assert bool(mask.all())
    assert len(list(data.loader(4, generator=torch.Generator()))) == 2
    assert data.sha256 != data.take([0, 1]).sha256


def test_groups_stay_together_when_a_part_is_split_off() -> None:
    x = torch.randn(12, 20, 3, generator=generator(1, "clouds"))
    groups = torch.arange(12) // 3
    data = PointSet(x, (groups % 2), ("a", "b"), groups=groups)
    rest, part = data.split_off(0.5)
    assert set(rest.groups.tolist()) & set(part.groups.tolist()) == set()
    assert len(part) == 6
    assert part.split == "validation"


def test_test_data_cannot_be_read_while_fitting() -> None:
    data = clouds().take(slice(0, 4), "test")
    with training_only(), pytest.raises(SplitError, match="test data"):
        data[0]


@pytest.mark.parametrize(
    ("points", "mask", "argument", "words"),
    [
        (torch.zeros(1, 0, 3), None, "points", "empty cloud"),
        (torch.zeros(1, 15, 3), None, "points", "at least 16 points"),
        (torch.zeros(2, 16, 2), None, "points", r"\(B, N, 3\)"),
        (torch.zeros(1, 16, 3, dtype=torch.long), None, "points", "floating-point"),
        (torch.full((2, 16, 3), torch.nan), None, "points", "NaN or infinity in cloud 0"),
        (torch.zeros(2, 16, 3), torch.zeros(2, 16, dtype=torch.bool), "mask", "all points dropped"),
        (torch.zeros(2, 16, 3), torch.ones(2, 15, dtype=torch.bool), "mask", r"\(2, 16\)"),
    ],
)
def test_bad_clouds_are_refused(points: torch.Tensor, mask: torch.Tensor | None, argument: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        check_cloud(points, mask)
    assert error.value.argument == argument


def test_labels_must_fit_the_classes() -> None:
    with pytest.raises(InputError, match="labels from 0 to 2"):
        PointSet(torch.randn(3, 16, 3), torch.tensor([0, 1, 2]), ("a", "b"))


def test_normalised_by_hand_ignores_padding() -> None:
    # real points (0,0,0) and (4,0,0), eight of each: centre (2,0,0), farthest 2; the padded point far away counts for nothing
    x = torch.zeros(1, 17, 3)
    x[0, 8:16, 0], x[0, 16] = 4.0, 1000.0
    mask = torch.ones(1, 17, dtype=torch.bool)
    mask[0, 16] = False
    out = normalised(x, mask)[0]
    assert out[0].tolist() == [-1, 0, 0]
    assert out[8].tolist() == [1, 0, 0]
    assert out[16].tolist() == [0, 0, 0]


def test_turning_by_a_right_angle() -> None:
    x = torch.tensor([[[1.0, 0.0, 5.0]]])
    torch.testing.assert_close(turned(x, torch.tensor([math.pi / 2])), torch.tensor([[[0.0, 1.0, 5.0]]]), atol=1e-6, rtol=0)


def test_thinning_draws_without_replacement_and_padding_says_so() -> None:
    x = torch.arange(60.0).reshape(1, 20, 3)
    kept = thinned(x, 18, generator(0, "thin"))[0, :, 0]
    assert len(kept.unique()) == 18
    points, mask = padded([x[0], x[0, :5]], 16, generator(0, "pad"))
    assert mask.sum(1).tolist() == [16, 5]
    assert points[1, 5:].abs().sum() == 0
    with pytest.raises(InputError, match="cloud 0, which is empty"):
        padded([x[0, :0]], 16, generator(0, "pad"))


# meshes


def test_points_lie_on_the_mesh_and_a_seed_gives_the_same_ones(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    (tmp_path / "plate.off").write_text(TRIANGLE_OFF)
    mesh = read_mesh(tmp_path / "plate.off")
    points = sample_mesh(mesh, 400, 3)
    assert torch.equal(points, sample_mesh(mesh, 400, 3))
    assert float(points[:, 2].abs().max()) == 0
    assert 0.9 < float(points[:, 0].mean()) < 1.1  # uniform over [0, 2]: 1 with a standard error of 0.03
    assert (float(points.amin()), float(points[:, 0].amax()) <= 2, float(points[:, 1].amax()) <= 1) == (
        pytest.approx(0, abs=0.05),
        True,
        True,
    )


def test_a_folder_of_meshes_by_class_in_the_layout_of_modelnet(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    for name in ("chair", "desk"):
        for split in ("train", "test"):
            (tmp_path / name / split).mkdir(parents=True)
            (tmp_path / name / split / "one.off").write_text(TRIANGLE_OFF)
    data = mesh_folder(tmp_path, 32, split="train")
    assert (data.classes, data.labels.tolist(), tuple(data.points.shape)) == (("chair", "desk"), [0, 1], (2, 32, 3))
    assert float(data.points.norm(dim=2).amax()) == pytest.approx(1)
    assert len(mesh_folder(tmp_path, 32)) == 4
    (tmp_path / "desk" / "train" / "one.off").write_text("OFF\n1 0 0\n0 0 0\n")
    with pytest.raises(InputError, match=r"one\.off"):
        mesh_folder(tmp_path, 32, split="train")
    with pytest.raises(MissingError, match="no meshes"):
        mesh_folder(tmp_path / "nothing")


def test_coarsening_keeps_the_shape_with_fewer_triangles() -> None:
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=4)
    light = coarsened(ball, 0.2)
    assert len(light.faces) < len(ball.faces) / 4
    assert np.abs(np.linalg.norm(light.vertices, axis=1) - 1).max() < 1e-6  # vertices are chosen, not averaged


# furniture


def library(folder: Path, entries: str, files: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / "A.sh3f", "w") as out:
        out.writestr("PluginFurnitureCatalog.properties", entries.encode("latin-1"))
        for name, text in files.items():
            out.writestr(name, text)


def test_the_catalogue_of_a_library_is_read(tmp_path: Path) -> None:
    entries = "id=x\nname#2=Caf\\u00e9 table\ncategory#2=Exterior\nmodel#2=/a/t.obj\nwidth#2=80.0\ndepth#2=60\nheight#2=70\n"
    library(tmp_path, entries + "name#1=Bed\ncategory#1=Bedroom\nmodel#1=/b.obj\nwidth#1=1\ndepth#1=2\nheight#1=3\n", {})
    bed, table = catalogue(tmp_path)
    assert (bed.name, bed.kind, bed.size) == ("Bed", "bed", (1.0, 2.0, 3.0))
    assert (table.name, table.kind, table.path) == ("Café table", "table", "a/t.obj")
    (tmp_path / "A.sh3f").write_bytes(b"no zip")
    with pytest.raises(InputError, match="damaged"):
        catalogue(tmp_path)


def test_names_give_classes() -> None:
    wanted = {
        "Winchester armchair": "chair", "Wheelchair": "", "Bedside table": "", "Desk lamp": "lamp", "Table fan": "",
        "Sink cabinet": "", "Lying down male": "person", "Double-hung window": "window", "Parking slot": "", "Glass": "vessel",
        "Glass door": "door", "Class seat": "",
    }  # fmt: skip
    assert {name: class_of(name) for name in wanted} == wanted


def test_the_same_shape_in_another_size_is_one_family() -> None:
    pytest.importorskip("scipy")
    g = generator(0, "families")
    ball = torch.nn.functional.normalize(torch.randn(2, 1024, 3, generator=g), dim=2)
    stretched = ball[1] * torch.tensor([3.0, 1.0, 0.5])
    cube = torch.rand(1024, 3, generator=g)
    assert families(torch.stack((ball[0], stretched, cube)), torch.zeros(3, dtype=torch.long)).tolist() == [0, 0, 2]
    # of another class it is another family, whatever it looks like
    assert families(torch.stack((ball[0], stretched)), torch.tensor([0, 1])).tolist() == [0, 1]


@pytest.mark.data
def test_furniture_is_sampled_and_split_by_family(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trimesh")
    monkeypatch.delenv("TUTELAGE_CACHE")  # the user's own: nothing is sampled for a test
    try:
        verified_folder("furniture")
        cache = Cache.default()
    except MissingError as error:
        pytest.skip(str(error))
    if not (cache.root / "furniture").is_dir():
        pytest.skip("furniture was not sampled yet: `tutelage run intact --scale claim` does")
    found = shapes(cache)
    parts = {split: found.split(split, 3) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert sum(map(len, parts.values())) == len(found.labels) == len(found.models)
    numbers = [set(found.families[index].tolist()) for index in parts.values()]
    assert not (numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2])
    assert all(len(found.labels[index].unique()) == len(CLASSES) for index in parts.values())


# KITTI

CALIB = (
    "P0: 1 0 0 0 0 1 0 0 0 0 1 0\nP2: 10 0 5 0 0 10 5 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
    "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"  # camera x = -y, y = -z, z = x: the axes alone, no shift
)
LABEL = "Car 0.1 2 0.0 1 2 3 4 1.5 1.6 4.0 2.0 1.0 10.0 0.0\nDontCare -1 -1 -10 0 0 1 1 -1 -1 -1 -1000 -1000 -1000 -10\n"


def test_a_box_in_camera_axes_becomes_one_in_lidar_axes() -> None:
    calib = read_calib(CALIB)
    car, nothing = read_labels(LABEL, calib)
    # camera (2, 1, 10) is LiDAR (10, -2, -1); the centre is half a height above what the box stands on
    assert car.centre == pytest.approx((10, -2, -0.25))
    assert car.size == (4.0, 1.6, 1.5)
    assert car.yaw == pytest.approx(-math.pi / 2)  # rotation 0 about the camera's y: it looks along the camera's x, LiDAR -y
    assert (car.kind, car.truncated, car.occluded, car.track) == ("Car", 0.1, 2, -1)
    assert nothing.kind == "DontCare"
    assert math.isnan(nothing.centre[0])
    points = torch.tensor([[10.0, -2.0, -0.25], [10.0, -3.9, 0.4], [11.0, -2.0, 0.0], [10.0, -4.1, 0.0]])
    assert car.inside(points).tolist() == [True, True, False, False]


def test_a_frame_of_the_object_benchmark_and_the_tracking_fields(tmp_path: Path) -> None:
    for name in ("velodyne", "calib", "label_2"):
        (tmp_path / name).mkdir()
    (tmp_path / "velodyne" / "000007.bin").write_bytes(struct.pack("<8f", 10, -2, 0, 0.5, 1, 2, 3, 0.25))
    (tmp_path / "calib" / "000007.txt").write_text(
        CALIB.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    )
    (tmp_path / "label_2" / "000007.txt").write_text("3 12 " + LABEL)
    frame = read_kitti_frame(tmp_path, "000007")
    assert frame.points.tolist() == [[10, -2, 0, 0.5], [1, 2, 3, 0.25]]
    assert (frame.boxes[0].frame, frame.boxes[0].track) == (3, 12)
    # depth 10, camera (2, 0, 10): column 10 * 2 / 10 + 5, row 5
    assert frame.projected(frame.points[:1])[0].tolist() == [7, 5, 10]
    assert [one.name for one in kitti_frames(tmp_path)] == ["000007"]


def test_damaged_files_of_kitti_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="13 bytes"):
        read_velodyne(bytes(13))
    with pytest.raises(InputError, match="NaN"):
        read_velodyne(struct.pack("<4f", 1, 2, math.nan, 0))
    with pytest.raises(InputError, match="P2"):
        read_calib("R0_rect: 1 0 0 0 1 0 0 0 1\n")
    with pytest.raises(InputError, match="line 1"):
        read_labels("Car 0 0\n", read_calib(CALIB))
    with pytest.raises(MissingError, match="no velodyne"):
        list(kitti_frames(tmp_path))


@pytest.mark.data
def test_points_in_the_boxes_of_real_frames_fall_into_the_boxes_of_the_picture() -> None:
    try:
        frames = list(kitti_frames())
    except MissingError as error:
        pytest.skip(str(error))
    checked = 0
    for frame in frames:
        for box in frame.boxes:
            inside = frame.points[box.inside(frame.points)] if box.kind != "DontCare" else frame.points[:0]
            if len(inside):
                u, v, depth = frame.projected(inside).unbind(1)
                left, top, right, bottom = box.image
                assert bool(((u >= left - 1) & (u <= right + 1) & (v >= top - 1) & (v <= bottom + 1) & (depth > 0)).all())
                checked += 1
    assert checked == 6


# simulated LiDAR


def test_rays_hit_a_box_where_it_is() -> None:
    pytest.importorskip("mujoco")
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box(extents=(2.0, 4.0, 3.0))
    box.apply_translation([0, 0, 1.5])
    poses = np.array([[10.0, 0.0, 0.0], [10.0, 1.0, np.pi / 2]])
    first, second = simulate([Placed(box, 0, poses)], Lidar(rings=16, columns=64, low=-8, high=4))
    own = first.points[first.objects == 0]
    assert len(own) > 50
    torch.testing.assert_close(own[:, 0], torch.full((len(own),), 9.0), atol=1e-4, rtol=0)  # its face towards the sensor
    assert float(own[:, 1].abs().amax()) <= 2.0
    assert 0 <= float(own[:, 2].amin()) < float(own[:, 2].amax()) <= 3.0
    turned_own = second.points[second.objects == 0]  # a quarter turn: 4 deep, 2 wide, and 1 m to the left
    assert float(turned_own[:, 0].amin()) == pytest.approx(8.0, abs=1e-4)
    assert float(turned_own[:, 1].amin()) >= 0 - 1e-4
    ground = first.points[first.objects == GROUND]
    assert float(ground[:, 2].abs().amax()) < 1e-4
    assert len(clusters(first.points)) == 1


def test_scenes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="no objects"):
        simulate([])
    with pytest.raises(InputError, match="poses"):
        simulate([Placed(None, 0, np.zeros((0, 3)))])
    with pytest.raises(InputError, match="lower one first"):
        Lidar(low=5.0, high=1.0)
    with pytest.raises(InputError, match="NaN"):
        clusters(torch.full((20, 3), torch.nan))
