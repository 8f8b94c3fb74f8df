-- Where the sun is: `elevation` above the horizon or `azimuth` from north by east, in degrees, without refraction.
-- The Astronomical Almanac's approximation as J. J. Michalsky gives it (Solar Energy 40 (1988) 227-235), within 0.01
-- degrees of the exact elevation from 1950 to 2050. Libraries such as pvlib compute nothing inside the database.
CREATE OR REPLACE FUNCTION sun_position(
    part text, at timestamptz, latitude double precision, longitude double precision
)
RETURNS double precision LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- days since 1 January 2000, 12:00 UTC
    days        double precision := extract(epoch FROM at)::double precision / 86400 - 10957.5;
    anomaly     double precision := radians(357.528 + 0.9856003 * days);
    ecliptic    double precision := radians(
        280.460 + 0.9856474 * days + 1.915 * sin(anomaly) + 0.020 * sin(2 * anomaly)
    );
    obliquity   double precision := radians(23.439 - 0.0000004 * days);
    declination double precision := asin(sin(obliquity) * sin(ecliptic));
    ascension   double precision := atan2(cos(obliquity) * sin(ecliptic), cos(ecliptic));
    hour_angle  double precision := radians(280.46061837 + 360.98564736629 * days + longitude) - ascension;
    north       double precision := radians(latitude);
BEGIN
    IF part = 'elevation' THEN
        RETURN degrees(asin(greatest(-1, least(1,
            sin(north) * sin(declination) + cos(north) * cos(declination) * cos(hour_angle)
        ))));
    END IF;
    RETURN degrees(
        atan2(sin(hour_angle), cos(hour_angle) * sin(north) - tan(declination) * cos(north))
    ) + 180;
END
$$;
