"""What may leave a DICOM header, and in what form: pseudonyms, shifted dates, an allow-list, and an account of it all."""
