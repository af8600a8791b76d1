"""Tables in the layouts of public data sets, by their documented headers: what becomes of every column."""

from dataclasses import dataclass, field

import pytest

from cbmir.errors import SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.tables.findings import CHEXPERT, VINDR_CXR
from cbmir.ingest.tables.options import TableOptions


@dataclass(frozen=True)
class Layout:
    """A table, and what must come of it.

    Attributes:
        header: Its columns, parted by the separator of `name`.
        row: Its first row.
        became: By column, what it is; columns that aren't named here are extra.
        record: Fields of the first record.
        name: Of the file.
        options: What the user says.
        warns: Texts of warnings.
    """

    header: str
    row: str
    became: dict[str, str]
    record: dict[str, object]
    name: str = "t.csv"
    options: dict[str, object] = field(default_factory=dict)
    warns: tuple[str, ...] = ()


LABELS = dict.fromkeys(CHEXPERT, "label")
CHEXPERT_HEADER = ",".join(CHEXPERT)
CHEXPERT_ROW = "," * 3 + "1.0,,-1.0,0.0" + "," * 7
VINDR = [name for name in VINDR_CXR if name not in ("Other disease", "Edema", "Enlarged PA")]
LAYOUTS = {
    "NIH ChestX-ray14": Layout(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
        {
            **{"Image Index": "filepath", "Finding Labels": "labels", "Patient ID": "patient_id"},
            **{"Patient Age": "age_years", "Patient Gender": "sex", "View Position": "view"},
        },
        {"labels": ("cardiomegaly", "emphysema"), "patient_id": "1", "age_years": 58.0, "sex": "M", "view": "PA"},
    ),
    "CheXpert": Layout(
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_HEADER}",
        f"CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,{CHEXPERT_ROW}",
        {"Path": "filepath", "Sex": "sex", "Age": "age_years", "Frontal/Lateral": "view", "AP/PA": "extra", **LABELS},
        {
            **{"labels": ("lung_opacity",), "sex": "F", "age_years": 68.0, "view": "Frontal", "patient_id": None},
            "extra": {"AP/PA": "AP", "uncertain": ["Edema"]},
        },
        warns=("no image has a patient_id",),
    ),
    "MIMIC-CXR-JPG, CheXpert labels": Layout(
        f"dicom_id,subject_id,study_id,{CHEXPERT_HEADER}",
        f"02aa804e,10000032,50414267,{CHEXPERT_ROW}",
        {"dicom_id": "filepath", "subject_id": "patient_id", "study_id": "study_id", **LABELS},
        {"labels": ("lung_opacity",), "patient_id": "10000032", "study_id": "50414267"},
    ),
    "MIMIC-CXR-JPG, metadata": Layout(
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning",
        '02aa804e,10000032,50414267,"CHEST (PA AND LAT)",PA,3056,2544,21800506,213014.531,"CHEST (PA AND LAT)"',
        {
            **{"dicom_id": "filepath", "subject_id": "patient_id", "study_id": "study_id", "ViewPosition": "view"},
            "StudyDate": "study_date",
        },
        {"study_date": "2180-05-06T00:00:00", "view": "PA"},
        warns=("no image has a label",),
    ),
    "MIMIC-CXR-JPG, split": Layout(
        "dicom_id,study_id,subject_id,split",
        "02aa804e,50414267,10000032,validate",
        {"dicom_id": "filepath", "study_id": "study_id", "subject_id": "patient_id", "split": "split"},
        {"split": "val"},
    ),
    "PadChest": Layout(
        "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
        "Pediatric,Modality_DICOM,Report,MethodLabel,Labels",
        "20536686_yq02.png,0,20140915,20536686,839860488694,1930,F,POSTEROANTERIOR,PA,No,CR,ok,Physician,"
        "\"['pulmonary fibrosis', 'chronic changes']\"",
        {
            **{
                "ImageID": "filepath",
                "StudyDate_DICOM": "study_date",
                "StudyID": "study_id",
                "PatientID": "patient_id",
            },
            **{"PatientSex_DICOM": "sex", "Projection": "view", "Modality_DICOM": "modality", "Labels": "labels"},
        },
        {
            **{"modality": "XR", "labels": ("pulmonary_fibrosis", "chronic_changes"), "sex": "F", "view": "PA"},
            **{"study_date": "2014-09-15T00:00:00"},
        },
        warns=("Pediatric",),
    ),
    "VinDr-CXR, image labels": Layout(
        f"image_id,{','.join(VINDR)}",
        f"002a34c5.dicom,{','.join('1' if name == 'Nodule/Mass' else '0' for name in VINDR)}",
        {"image_id": "filepath", **dict.fromkeys(VINDR, "label")},
        {"labels": ("nodule_mass",)},
        warns=("no image has a patient_id",),
    ),
    "VinDr-CXR, annotations": Layout(
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        "50a41896.dicom,Nodule/Mass,8,R11,691.0,1375.0,1653.0,1831.0",
        {"image_id": "filepath", "class_name": "labels"},
        {"labels": ("nodule_mass",)},
    ),
    "BRAX": Layout(
        ",DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,"
        f"{CHEXPERT_HEADER},ViewPosition,Rows",
        f"0,d/1.dcm,images/1.png,id_1,M,85 or more,Accession_1,20120101,{CHEXPERT_ROW},L,2500",
        {
            **{"PngPath": "filepath", "PatientID": "patient_id", "PatientSex": "sex", "PatientAge": "age_years"},
            **{"AccessionNumber": "study_id", "StudyDate": "study_date", "ViewPosition": "view", **LABELS},
        },
        {"filepath": "images/1.png", "study_id": "Accession_1", "age_years": None, "sex": "M"},
    ),
    "RSNA pneumonia": Layout(
        "patientId,x,y,width,height,Target",
        "0004cfab,,,,,0",
        {"patientId": "filepath", "width": "ignored", "height": "ignored", "Target": "label"},
        {"labels": ()},
        options={"columns": {"patientId": "filepath"}, "label_columns": ("Target",)},
        warns=("no image has a patient_id",),
    ),
    "RSNA intracranial hemorrhage, wide": Layout(
        "filename,any,epidural,intraparenchymal,intraventricular,subarachnoid,subdural",
        "ID_0.dcm,1,0,1,0,0,0",
        {
            "filename": "filepath",
            **dict.fromkeys(("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"), "label"),
        },
        {"labels": ("intraparenchymal",), "extra": {"any": "1"}},
        warns=("--label-columns 'any'",),
    ),
    "MURA, with a header": Layout(
        "path,label",
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png,1",
        {"path": "filepath", "label": "labels"},
        {"labels": ("1",)},
        warns=("label holds only 1", "no image has a patient_id"),
    ),
    "RadImageNet": Layout(
        "filename,label",
        "radiology_ai/MR/ankle/achilles/mri001.png,achilles tendon pathology",
        {"filename": "filepath", "label": "labels"},
        {"labels": ("achilles_tendon_pathology",)},
    ),
    "ISIC 2019": Layout(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK",
        "ISIC_0000000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        {"image": "filepath", **dict.fromkeys(("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"), "label")},
        {"labels": ("nv",)},
        warns=("UNK",),
    ),
    "HAM10000": Layout(
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp",
        {"image_id": "filepath", "dx": "labels", "age": "age_years", "sex": "sex"},
        {"labels": ("bkl",), "age_years": 80.0, "sex": "M", "patient_id": None},
    ),
    "UK Biobank": Layout(
        "eid\t31-0.0\t21003-2.0\t53-2.0\tfile",
        "1000015\t0\t63\t2016-05-01\t1000015_20208_2_0.png",
        {"eid": "patient_id", "31-0.0": "sex", "21003-2.0": "age_years", "53-2.0": "study_date", "file": "filepath"},
        {"patient_id": "1000015", "sex": "F", "age_years": 63.0, "study_date": "2016-05-01T00:00:00"},
        name="t.tsv",
        options={
            "columns": {"31-0.0": "sex", "21003-2.0": "age_years", "53-2.0": "study_date"},
            "values": {"sex": {"0": "F", "1": "M"}},
        },
    ),
    "BIDS scans.tsv with participants": Layout(
        "filename\tacq_time\tparticipant_id\tage\tsex\tgroup",
        "anat/sub-01_T1w.nii.gz\t2019-01-02T10:00:00\tsub-01\t34\tn/a\tcontrol",
        {
            **{"filename": "filepath", "acq_time": "study_date", "participant_id": "patient_id", "age": "age_years"},
            "sex": "sex",
        },
        {"kind": "volume", "patient_id": "sub-01", "sex": None, "extra": {"group": "control"}},
        name="t.tsv",
    ),
    "CT-RATE": Layout(
        "VolumeName,Medical material,Cardiomegaly,Hiatal hernia,Lung nodule",
        "valid_1_a_1.nii.gz,0,1,0,1",
        {
            "VolumeName": "filepath",
            **dict.fromkeys(("Medical material", "Cardiomegaly", "Hiatal hernia", "Lung nodule"), "label"),
        },
        {"labels": ("cardiomegaly", "lung_nodule"), "kind": "volume"},
        options={"columns": {"VolumeName": "filepath"}},
    ),
    "a PACS export": Layout(
        "Patient ID;Accession Number;Study Date;Modality;Body Part Examined;Patient Sex;Patient Age;"
        "Series Instance UID;File",
        "P001;A77;31.01.2020;DX;CHEST;W;045Y;1.2.3;a/1.dcm",
        {
            **{"Patient ID": "patient_id", "Accession Number": "study_id", "Study Date": "study_date"},
            **{"Modality": "modality", "Body Part Examined": "anatomic_region", "Patient Sex": "sex"},
            **{"Patient Age": "age_years", "Series Instance UID": "series_id", "File": "filepath"},
        },
        {
            "modality": "XR",
            "anatomic_region": "chest",
            "study_date": "2020-01-31T00:00:00",
            "sex": "F",
            "study_id": "A77",
        },
        options={"date_format": "%d.%m.%Y"},
    ),
    "a table of findings by radiologists": Layout(
        "Image Name,Patient,Modality,Region,Pathology,Smoker,Scanner",
        "1.png,7,MRI,Brain,Glioma,yes,Siemens",
        {
            **{"Image Name": "filepath", "Patient": "patient_id", "Modality": "modality"},
            **{"Region": "anatomic_region", "Pathology": "labels"},
        },
        {"labels": ("MR/brain/glioma",), "extra": {"Smoker": "yes", "Scanner": "Siemens"}},
        warns=("--label-columns 'Smoker'",),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout__what_becomes_of_every_column(tmp_path, name):
    layout = LAYOUTS[name]
    (tmp_path / layout.name).write_text(f"{layout.header}\n{layout.row}\n")
    source = open_source(tmp_path / layout.name, SourceOptions(table=TableOptions(**layout.options)))
    reading = source.reading()
    became = {column.name: column.became for column in reading.columns}
    assert layout.became.keys() <= became.keys()
    assert became == {column: layout.became.get(column, "extra") for column in became}
    (item,) = source
    assert {key: getattr(item.record, key) for key in layout.record} == layout.record
    for text in layout.warns:
        assert any(text in warning for warning in reading.warnings), (text, reading.warnings)


def test_layout__twenty_of_them():
    assert len(LAYOUTS) == 20


def test_layout__tables_that_name_no_image_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\thandedness\tgroup\nsub-01\t34\tF\tright\tx\n")
    with pytest.raises(SourceError, match=r"its columns are participant_id, age, sex.* --column NAME=filepath"):
        open_source(tmp_path / "participants.tsv")
    (tmp_path / "train_image_paths.csv").write_text(
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png\n"
    )
    with pytest.raises(SourceError, match="looks like a row: write a header above it"):
        open_source(tmp_path / "train_image_paths.csv")
